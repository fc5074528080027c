"""Clients that mean harm against `spoolq serve` as a process, and what each attack costs it: `make hostile`.

| attack | what comes |
|---|---|
| dropped | 100,000 connections, opened and dropped |
| slow heads | as many connections as it takes, each a byte of a request at a time, none whole |
| large heads | the same with 31 KiB of head each |
| endless fragments | fragments without an end |
| half frames | as many connections as it takes, 2 MiB of a frame each, none whole |
| symbols | 2,000,000 symbols of 200 bytes |
| open groups | deferred rows that nobody commits |
| nobody reads | PINGs whose answers nobody reads |
| random bytes | 2,000 connections with 4 KiB of them |

After each attack an honest client must be served, and the attackers' memory given back or reused.  Prints the
process's resident memory: before, at its highest, after.  Ends with 1 when it went above 2 GiB (the bound of what is
held is 1 GiB, to which Python adds) or an honest client waited for more than ten seconds.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from .raw_client import BINARY, PING, Ended, RawClient, block, frame, good_headers, message, one_row

CONNECTIONS_MAX = 4_096
HIGHEST_BYTES = 2 << 30
HEAD = "\r\n".join(["GET /write/v4 HTTP/1.1", *(f"{k}: {v}" for k, v in good_headers().items()), ""]).encode()
BROKEN = (BrokenPipeError, ConnectionResetError, Ended, TimeoutError)


class Served:
    """The process."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "spoolq.cli", "serve", "--port", "0", "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(json.loads(self.process.stdout.readline())["port"])

    def memory(self, line: str) -> int:
        """A line of its status in bytes: VmRSS, VmHWM."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return next(int(text.split()[1]) << 10 for text in status.splitlines() if text.startswith(line))

    def forget_highest(self) -> None:
        """The highest is measured anew from here."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")

    def serves(self) -> float:
        """Seconds until an honest client has its row in."""
        began = time.monotonic()
        with RawClient(self.port) as client:
            client.upgrade()
            client.message(one_row("honest"))
            assert client.answer()[0] == 0
        return time.monotonic() - began

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def many(port: int, count: int, bring: Callable[[RawClient], None]) -> None:
    """So many at once, or as many as it takes; they stay until all have brought theirs, and one is left free."""
    with ExitStack() as stack:
        for _ in range(count):
            with suppress(*BROKEN):
                bring(stack.enter_context(RawClient(port)))


def dropped(served: Served, scale: float) -> None:
    gone = struct.pack("ii", 1, 0)  # RST, so that no port of this machine stays taken
    for number in range(int(100_000 * scale)):
        sock = socket.create_connection(("127.0.0.1", served.port))
        if number % 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, gone)
        sock.close()


def slow_heads(served: Served, scale: float) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(served.port)) for _ in range(int(CONNECTIONS_MAX * scale) - 1)]
        for byte in HEAD[:50]:
            for client in clients:
                client.send(bytes((byte,)))
        served.serves()  # while all of them are there


def large_heads(served: Served, scale: float) -> None:
    lines = b"".join(b"X%d: " % n + b"y" * 7_000 + b"\r\n" for n in range(4))
    many(served.port, int(CONNECTIONS_MAX * scale) - 1, lambda client: client.send(HEAD + lines))


def endless_fragments(served: Served, scale: float) -> None:
    with RawClient(served.port) as client, suppress(*BROKEN):
        client.upgrade()
        for _ in range(int(10_000 * scale)):
            client.send(frame(BINARY, bytes(1_000), fin=False))


def half_frames(served: Served, scale: float) -> None:
    part = bytes((0x82, 0xFF)) + struct.pack(">Q", 2_097_100) + bytes(4 + 2_090_000)

    def bring(client: RawClient) -> None:
        client.upgrade()
        client.send(part)

    many(served.port, int(1_000 * scale), bring)


def symbols(served: Served, scale: float) -> None:
    with RawClient(served.port) as client, suppress(*BROKEN):
        client.upgrade()
        for number in range(int(200 * scale)):
            texts = [f"{number:05}{n:05}" + "s" * 190 for n in range(10_000)]
            client.send(masked(message(dictionary=(number * 10_000, texts))))
            client.answer()


def open_groups(served: Served, scale: float) -> None:
    text = b"\0" + struct.pack("<2I", 0, 2_000_000) + b"x" * 2_000_000
    payload = masked(message(block("t", 1, ("v", 0x0F, text)), flags=0x09))
    with RawClient(served.port) as client, suppress(*BROKEN):
        client.upgrade()
        for _ in range(int(1_000 * scale)):
            client.send(payload)


def nobody_reads(served: Served, scale: float) -> None:
    pings = frame(PING, bytes(125)) * 1_000

    def bring(client: RawClient) -> None:
        client.upgrade()
        client.socket.settimeout(0.2)
        for _ in range(100):
            client.send(pings)

    many(served.port, int(100 * scale), bring)


def random_bytes(served: Served, scale: float) -> None:
    for number in range(int(2_000 * scale)):
        with RawClient(served.port) as client, suppress(*BROKEN):
            if number % 2:
                client.upgrade()
            client.send(os.urandom(4_096))


def masked(payload: bytes) -> bytes:
    """A frame with a mask of zeros, which is legal and quick to make."""
    return bytes((0x82, 0xFF)) + struct.pack(">Q", len(payload)) + bytes(4) + payload


ATTACKS = (
    *(dropped, slow_heads, large_heads, endless_fragments, half_frames),
    *(symbols, open_groups, nobody_reads, random_bytes),
)


def attacked(scale: float) -> bool:
    """All attacks on one process, ``scale`` of each; whether it bore them."""
    served, ok = Served(), True
    try:
        print(f"{'attack':20} {'took s':>7} {'before MiB':>11} {'highest':>8} {'after':>6} {'honest client s':>16}")
        for attack in ATTACKS:
            before = served.memory("VmRSS")
            served.forget_highest()
            began = time.monotonic()
            attack(served, scale)
            took = time.monotonic() - began
            waited = served.serves()
            highest, after = served.memory("VmHWM"), served.memory("VmRSS")
            figures = f"{before >> 20:11} {highest >> 20:8} {after >> 20:6} {waited:16.3f}"
            print(f"{attack.__name__.replace('_', ' '):20} {took:7.1f} {figures}", flush=True)
            ok = ok and highest < HIGHEST_BYTES and waited < 10
    finally:
        served.stop()
    return ok


if __name__ == "__main__":
    sys.exit(0 if attacked(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0) else 1)
