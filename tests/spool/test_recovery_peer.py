"""The official client on the same slots, as a real process: each opens what the other, or a maker, left."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import questdb

from spoolq import Sender
from spoolq.errors import SlotBusyError
from spoolq.server import QwpServer
from spoolq.spool.files import Files
from spoolq.spool.lock import SlotLock
from spoolq.spool.opening import open_store
from spoolq.spool.recovery import open_slot
from tests.interop.peer import RecordingPeer
from tests.ports import NOBODY
from tests.sender.harness import until
from tests.spool import slot_maker
from tests.spool.disk_slot import replay
from tests.spool.recovered import ID, Outcome, payload, payloads, recover
from tests.spool.slot_maker import Slot, message, symbol_dict

_MANIFEST = "sf-manifest.bin"
#: Arguments: sf_dir, address, segment bytes, rows, symbols, tables, the row behind which it waits for the
#: acknowledgement and for a line.  Prints the FSN of each flush, then waits.
_WRITER = f"""
import sys, questdb
sf_dir, address, segment, rows, symbols, tables, acked = sys.argv[1:]
sender = questdb.Sender.from_conf(
    f"ws::addr={{address}};sf_dir={{sf_dir}};sender_id={ID};sf_max_segment_bytes={{segment}};sf_max_total_bytes=64000000;"
    "initial_connect_retry=async;auto_flush=off;"
)
sender.establish()
for n in range(int(rows)):
    sender.row(f"table{{n % int(tables)}}", symbols={{"s": f"symbol {{n % int(symbols)}}"}}, columns={{"n": n}},
               at=questdb.TimestampNanos(10**18 + n))
    fsn = sender.flush_and_get_fsn()
    if n == int(acked):
        assert sender.await_acked_fsn(fsn, 100_000)
    print(fsn, flush=True)
    if n == int(acked):
        sys.stdin.readline()
print("done", flush=True)
sys.stdin.read()
"""
_TURNS = 100


def _killed_writer(
    root: Path,
    *,
    address: str = NOBODY,
    segment: int,
    rows: int,
    symbols: int,
    tables: int,
    kill_at: int | None = None,
    acked: int = -1,
    on_acked: Callable[[], object] = lambda: None,
) -> int:
    """Lets the official client write, kills it, also in the middle; the last FSN whose flush returned.

    Behind frame ``acked`` it waits for the acknowledgement, and goes on when ``on_acked`` was called.
    """
    arguments = [str(root), address, *map(str, (segment, rows, symbols, tables, acked))]
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    last = -1
    for line in child.stdout:
        if line == "done\n":
            break
        last = int(line)
        if last == acked:
            on_acked()
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        if last == kill_at:
            break
    child.kill()
    rest = child.communicate()[0].split()
    return max([last, *(int(word) for word in rest if word.isdigit())])


def _delivered_by_the_peer(root: Path, end: int, next_frame: bool = False) -> list[bytes]:
    """What the official client sends from the slot, catch-up left out."""
    with RecordingPeer() as server:
        conf = f"{server.conf}sf_dir={root};sender_id={ID};auto_flush=off;sf_max_segment_bytes=4096;"
        with questdb.Sender.from_conf(conf) as sender:
            if next_frame:
                sender.row("more", columns={"n": 1}, at=questdb.TimestampNanos(1))
                assert sender.flush_and_get_fsn() == end
                end += 1
            if end:
                assert sender.await_acked_fsn(end - 1, 100_000)
        messages = [m for connection in server.take() for m in connection]
    return [m for m in messages if not (m[:4] == b"QWP1" and m[5] == 8 and m[6:8] == b"\0\0" and len(m) > 14)]


def _check_symbols(outcome: Outcome, frames: dict[int, bytes]) -> None:
    """Each symbol stands in some frame, and all of the frames' ids are known."""
    joined = b"".join(frames.values())
    for text in outcome.symbols:
        assert text.encode() in joined


@pytest.mark.parametrize(
    ("segment", "rows", "symbols", "tables", "kill_at"),
    [
        (1 << 20, 60, 5, 1, None),
        (4096, 600, 40, 3, None),
        (4096, 400, 3, 2, 311),
        (65536, 2500, 2500, 1, None),
        (120, 40, 1, 7, 25),
    ],
)
def test_rec_09_slots_of_a_killed_official_client_are_recovered_and_go_on_in_both(
    tmp_path: Path, segment: int, rows: int, symbols: int, tables: int, kill_at: int | None
) -> None:
    last = _killed_writer(tmp_path, segment=segment, rows=rows, symbols=symbols, tables=tables, kill_at=kill_at)
    before = slot_maker.read_frames(tmp_path / ID)
    assert last >= (kill_at or rows - 1)
    outcome, opened = recover(tmp_path)
    assert outcome.frames == before, "the same frames as an independent reader finds"
    assert sorted(outcome.frames) == list(range(outcome.next_fsn))
    assert outcome.next_fsn > last, "every flush that returned"
    assert outcome.acked_fsn == -1
    assert opened.report.set_aside == ""
    assert not opened.report.quarantined
    assert opened.report.symbols_rebuilt == 0, "written ahead"
    _check_symbols(outcome, before)
    assert recover(tmp_path)[0] == outcome
    # and the peer goes on from what our recovery left: its flags, manifest, watermark, dictionary
    delivered = _delivered_by_the_peer(tmp_path, outcome.next_fsn, next_frame=True)
    assert delivered[: len(before)] == list(before.values())
    assert len(delivered) == len(before) + 1
    assert recover(tmp_path)[1].fresh, "drained by the peer"


def test_rec_09_our_sender_delivers_what_a_killed_official_client_left(tmp_path: Path) -> None:
    assert _killed_writer(tmp_path, segment=400, rows=50, symbols=5, tables=2) == 49
    before = slot_maker.read_frames(tmp_path / ID)
    assert sorted(before) == list(range(50))
    assert len(list((tmp_path / ID).glob("*.sfa"))) > 5
    with QwpServer() as server:
        with Sender.from_conf(server.conf, sf_dir=tmp_path, sender_id=ID) as sender:
            assert sender.published_fsn() == 49
            sender.wait()
        (connection,) = server.connections
        data = [m for m in connection.messages if m[6:8] != b"\0\0"]
    assert data == list(before.values())
    assert not list((tmp_path / ID).glob("*.sfa"))


def test_wmk_01_invariant_22_partly_acknowledged_slot_of_the_official_client(tmp_path: Path) -> None:
    """Acknowledged and trimmed in part by a server that then goes away."""
    acked = 120
    first_segment = tmp_path / ID / "sf-0000000000000000.sfa"
    with contextlib.ExitStack() as until_acked:
        until_acked.callback(until, lambda: not first_segment.exists())  # its own thread trims, when it comes to it
        server = until_acked.enter_context(RecordingPeer())
        address = f"127.0.0.1:{server.port}"
        _killed_writer(
            tmp_path,
            address=address,
            segment=4096,
            rows=300,
            symbols=20,
            tables=2,
            kill_at=250,
            acked=acked,
            on_acked=until_acked.close,
        )
    before = slot_maker.read_frames(tmp_path / ID)
    assert 0 < min(before) < acked < max(before), "trimmed, and acknowledged within a segment"
    outcome, _ = recover(tmp_path)
    assert outcome.acked_fsn == acked
    assert outcome.frames == {fsn: frame for fsn, frame in before.items() if fsn > outcome.acked_fsn}
    delivered = _delivered_by_the_peer(tmp_path, outcome.next_fsn, next_frame=True)
    assert delivered[:-1] == list(outcome.frames.values())


def test_invariant_28_the_official_client_and_we_exclude_each_other(tmp_path: Path) -> None:
    conf = f"ws::addr={NOBODY};sf_dir={tmp_path};sender_id={ID};initial_connect_retry=async;auto_flush=off;"
    held = SlotLock.acquire(Files(), str(tmp_path / ID))
    with pytest.raises(questdb.QuestDBError, match="already in use"):
        questdb.Sender.from_conf(conf).establish()
    held.release()
    theirs = questdb.Sender.from_conf(conf)
    theirs.establish()
    with pytest.raises(SlotBusyError, match="slot already in use"):
        open_slot(Files(), str(tmp_path), ID)
    theirs.close(flush=False)
    recover(tmp_path)


def _several() -> Slot:
    slot = Slot()
    slot.segment(0, [message(0, ["a"], b"1", tables=1), message(1, ["b"], b"2", tables=1)])
    slot.segment(2, [message(2, [], b"3", tables=1), message(2, ["c"], b"4", tables=1)], size=512)
    slot.segment(4, [], size=512)
    slot.files.update({_MANIFEST: slot_maker.manifest(0, 2, 3), ".symbol-dict": symbol_dict(["a", "b"], ["c"])})
    slot.files[".ack-watermark"] = slot_maker.watermark(0)
    return slot


def _with(slot: Slot, **files: bytes) -> Slot:
    slot.files.update(files)
    return slot


def _legacy() -> Slot:
    slot = Slot()
    slot.segment(0, payloads(0, 3), name="sf-initial.sfa", flags=0)
    slot.segment(3, payloads(3, 5), name="sf-000000000000000a.sfa", flags=0, size=400)
    return slot


def _trimmed() -> Slot:
    slot = Slot()
    slot.segment(10, payloads(10, 13))
    slot.segment(13, payloads(13, 14), size=300)
    return _with(slot, **{_MANIFEST: slot_maker.manifest(10, 13, 9), ".ack-watermark": slot_maker.watermark(11, 4)})


def _torn() -> Slot:
    slot = Slot()
    slot.segment(0, [payload(0)], size=300, tail=slot_maker.frame(payload(1))[:-3])
    return _with(slot, **{_MANIFEST: slot_maker.manifest(0, 0)})


def _dense() -> Slot:
    slot = Slot()
    slot.segment(0, [message(0, ["a"], b"1", tables=1), message(0, ["a", "b"], b"2", tables=1)], size=300)
    return _with(slot, **{_MANIFEST: slot_maker.manifest(0, 0)})


@pytest.mark.parametrize("build", [_several, _legacy, _trimmed, _torn, _dense])
@pytest.mark.parametrize("ours_first", [False, True])
def test_slots_of_the_independent_maker_open_in_the_official_client(
    tmp_path: Path, build: object, ours_first: bool
) -> None:
    """The maker is right where the peer agrees; and what our recovery leaves is right for the peer."""
    build().write(tmp_path / ID)  # type: ignore[operator]
    (tmp_path / "reference").mkdir()
    build().write(tmp_path / "reference" / ID)  # type: ignore[operator]
    expected, _ = recover(tmp_path / "reference")
    if ours_first:
        recover(tmp_path)
    assert _delivered_by_the_peer(tmp_path, expected.next_fsn) == list(expected.frames.values())


class _HandOver:
    """One slot that both clients use in turn; ``known`` is every frame that was ever seen in it and is not settled."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.rng = random.Random(seed)
        self.known: dict[int, bytes] = {}
        self.next_fsn = 0
        self.acked_fsn = -1

    def look(self, last: int) -> None:
        """After a turn: nothing that was known changed or vanished unless settled, ``last`` is there."""
        frames = slot_maker.read_frames(self.root / ID)
        mark = slot_maker.read_record((self.root / ID / ".ack-watermark").read_bytes(), b"AKW1", 1)
        assert (mark[0] if mark else -1) >= self.acked_fsn, "the watermark never falls"
        self.acked_fsn = mark[0] if mark else -1
        for fsn, frame in self.known.items():
            assert fsn <= self.acked_fsn or frames[fsn] == frame
        assert max(frames, default=self.next_fsn - 1) >= last
        self.known = {fsn: frame for fsn, frame in frames.items() if fsn > self.acked_fsn}
        self.next_fsn = max([self.next_fsn, *(fsn + 1 for fsn in frames)])
        assert sorted(self.known) == list(range(self.acked_fsn + 1, self.next_fsn))

    def theirs(self) -> None:
        """The official client appends some frames without a server, and is killed."""
        rows = self.rng.randrange(1, 60)
        kill_at = self.next_fsn + self.rng.randrange(rows)
        last = _killed_writer(
            self.root, segment=4096, rows=rows, symbols=self.rng.randrange(1, 50), tables=2, kill_at=kill_at
        )
        assert last >= kill_at
        self.look(last)

    def ours(self) -> None:
        """Our store replays what is there, appends some frames with old and new symbols, settles some, and closes."""
        opened = open_store(Files(), str(self.root), ID, segment_nbytes=4096, total_nbytes=64_000_000)
        store, symbols = opened.store, opened.symbols
        try:
            assert opened.report.set_aside == ""
            assert store.published_fsn == self.next_fsn - 1
            assert replay(store, self.acked_fsn + 1) == list(self.known.values())
            for _ in range(self.rng.randrange(1, 60)):
                first = len(symbols)
                for _ in range(self.rng.randrange(3)):
                    symbols.intern(f"symbol {self.rng.randrange(60)}")
                texts = [symbols.text_of(n) for n in range(first, len(symbols))]
                frame = message(first, texts, b"\1t\0\0" + bytes([self.rng.randrange(256)] * 40), tables=1)
                room = store.reserve(len(frame))
                if room is None:
                    store.keep(0)
                    room = store.reserve(len(frame))
                    assert room is not None
                store.write_ahead(symbols, first, len(symbols))
                room.view[:] = frame
                fsn = store.publish(room)
                symbols.published_count = len(symbols)
                self.known[fsn] = frame
                self.next_fsn = fsn + 1
            if self.rng.random() < 0.5:  # never all: a drained slot starts again at FSN 0
                store.acknowledge(
                    self.rng.randrange(self.acked_fsn + 1, self.next_fsn - 1) if self.next_fsn > 1 else -1
                )
                store.keep(10_000)
        finally:
            store.close()
        self.look(self.next_fsn - 1)


@pytest.mark.parametrize("seed", range(2))
def test_200_random_hand_overs_lose_and_invent_nothing(tmp_path: Path, seed: int) -> None:
    """Kills of the official client at random, a store of ours that goes on, appends and settles in part."""
    slot = _HandOver(tmp_path, seed)
    for turn in range(_TURNS):
        (slot.ours if turn == 0 or slot.rng.random() < 0.5 else slot.theirs)()
    assert _delivered_by_the_peer(tmp_path, slot.next_fsn) == list(slot.known.values())
