"""How much of the official client's DataFrames the strict server takes: `python -m bench.server`.

Client and server run in one process, so both share its cores and the server's thread the interpreter's lock.  A
server that only acknowledges (`bench.sink`) shows what the client alone can do; ``server_alone`` is what the server's
checks would do with a core to themselves, by the time of its thread, so a busy machine does not change it.  Best of
three; MB are 10**6 bytes on the wire.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import questdb

from bench.machine import machine
from spoolq.qwp.inbound import unmask
from spoolq.server.duck import DuckStore
from spoolq.server.options import ServerOptions
from spoolq.server.processor import Processor
from spoolq.testing import MemoryStore, QwpServer

ROWS = 1_000_000
TURNS = 3


def frames() -> dict[str, pd.DataFrame]:
    """Three shapes of a million rows."""
    times = pd.Series(np.arange(ROWS).astype("datetime64[ns]"))
    numbers = {f"d{n}": np.random.default_rng(n).random(ROWS) for n in range(8)}
    whole = {f"l{n}": np.arange(ROWS) for n in range(4)}
    symbols = pd.Categorical.from_codes(np.arange(ROWS) % 100, [f"symbol {n}" for n in range(100)])
    return {
        "8 doubles, 4 longs": pd.DataFrame(numbers | whole | {"ts": times}),
        "the same and a symbol": pd.DataFrame(numbers | whole | {"s": symbols, "ts": times}),
        "a text": pd.DataFrame({"v": [f"value number {n}" for n in range(ROWS)], "ts": times}),
    }


def send(conf: str, frame: pd.DataFrame) -> float:
    """Seconds until everything is acknowledged."""
    began = time.perf_counter()
    with questdb.Sender.from_conf(conf) as sender:
        sender.dataframe(frame, table_name="t", at="ts")
    return time.perf_counter() - began


def into(make_store: Any, frame: pd.DataFrame) -> tuple[float, int]:
    """MB/s and bytes with a store."""
    best, nbytes = float("inf"), 0
    for _ in range(TURNS):
        store = make_store()
        with QwpServer(store=store, record_nbytes_max=0) as server:
            best = min(best, send(server.conf, frame))
            nbytes = server.stats()["received_bytes"]
            assert server.store.count("t") == ROWS
        if store is not None:
            store.close()
    return nbytes / best / 1e6, nbytes


def alone(frame: pd.DataFrame) -> float:
    """MB for a second of the server's own time: a client's messages unmasked, checked and stored once more."""
    with QwpServer(record_nbytes_max=1 << 30) as server:
        send(server.conf, frame)
        messages = next(record.messages for record in server.connections if record.messages)
    best = float("inf")
    for _ in range(TURNS):
        store = MemoryStore()
        processor = Processor(ServerOptions(), store, time.time_ns)
        store.configure(ServerOptions())
        began = time.thread_time()
        for message in messages:
            processor.message(unmask(message, b"\0\0\0\0"), 0)
        best = min(best, time.thread_time() - began)
        assert store.count("t") == ROWS
    return sum(map(len, messages)) / best / 1e6


def into_the_sink(frame: pd.DataFrame, nbytes: int) -> float:
    """MB/s with the endpoint that only acknowledges."""
    command = [sys.executable, "-m", "bench.sink"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sink:
        assert sink.stdout is not None
        conf = f"ws::addr=127.0.0.1:{sink.stdout.readline().strip()};"
        best = min(send(conf, frame) for _ in range(TURNS))
        sink.communicate()
    return nbytes / best / 1e6


def main() -> None:
    """Prints one JSON object."""
    warnings.simplefilter("ignore")
    figures = []
    for shape, frame in frames().items():
        memory, nbytes = into(lambda: None, frame)
        duck, _ = into(DuckStore, frame)
        sink = into_the_sink(frame, nbytes)
        rates = {"memory_store": memory, "sql_store": duck, "acknowledging_only": sink, "server_alone": alone(frame)}
        figures.append({"shape": shape, "wire_mb": round(nbytes / 1e6), **{k: round(v, 3) for k, v in rates.items()}})
    print(json.dumps({"unit": "MB/s", "rows": ROWS, "figures": figures, "machine": machine()}, indent=1))


if __name__ == "__main__":
    main()
