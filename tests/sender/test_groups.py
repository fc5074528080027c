"""Slots in which another client left transactions of several frames, sent by a sender and by a drainer.

behaviour.md 3.6, 4.3, 6.5; wire.md 6.2; slot.md 5.5.  The server is the strict one: it holds the OK of a group back
until its commit, and rolls an open group back when the connection ends.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spoolq import NothingToSkipError, Sender, ServerRejection, SpoolqError, TimestampNanos
from spoolq.qwp.layout import FLAG_DEFER_COMMIT, FLAGS_OFFSET, Status
from spoolq.server import QwpServer
from spoolq.testing import Drop, Refuse, Reject, Script
from tests.processes import started
from tests.runtime.test_drainer import Bench
from tests.sender.harness import FAST, child_environment, frames, numbers, until
from tests.sender.test_on_a_slot import NOBODY, left_in, offline
from tests.spool import slot_maker
from tests.spool.slot_maker import Slot

# FSN 0; 1 to 5 with the commit 5; 6; 7 with its commit 8; 9.  Groups reach over the ends of segments.
LAYOUT = "cddddccdcc"
ALL = list(range(len(LAYOUT)))
PER_SEGMENT = 3
STARTS = [0, 1, 1, 1, 1, 1, 6, 7, 7, 9]  # first frame of the group of each
COMMITS = [0, 5, 5, 5, 5, 5, 6, 8, 8, 9]
WHO = ["sender", "drainer"]


def leave(folder: Path, layout: str = LAYOUT, *, wide: int = -1) -> None:
    """The slot: one row a frame, and the dictionary; ``d`` is a frame that is deferred, ``wide`` one of 1,000 bytes."""
    with Sender.from_conf(NOBODY, sf_dir=folder) as sender:
        for n in range(len(layout)):
            text = {"text": "x" * 1_000} if n == wide else {}
            sender.row("t", symbols={"s": f"sym-{n}"}, columns={"n": n, **text}, at=TimestampNanos(n))
            sender.flush()
    directory = folder / "default"
    found = slot_maker.read_frames(directory)
    symbols = slot_maker.read_symbols((directory / ".symbol-dict").read_bytes())
    shutil.rmtree(directory)
    payloads = [_flagged(found[fsn], FLAG_DEFER_COMMIT if flag == "d" else 0) for fsn, flag in enumerate(layout)]
    slot = Slot()
    for base in range(0, len(payloads), PER_SEGMENT):
        last = base + PER_SEGMENT >= len(payloads)
        slot.segment(base, payloads[base : base + PER_SEGMENT], size=4_096 if last else None)
    slot.files["sf-manifest.bin"] = slot_maker.manifest(0, (len(payloads) - 1) // PER_SEGMENT * PER_SEGMENT)
    slot.files[".symbol-dict"] = slot_maker.symbol_dict(symbols)
    slot.write(directory)


def _flagged(payload: bytes, flag: int) -> bytes:
    return payload[:FLAGS_OFFSET] + bytes([payload[FLAGS_OFFSET] | flag]) + payload[FLAGS_OFFSET + 1 :]


def deliver(who: str, folder: Path, conf: str, extra: str = "") -> None:
    """Until everything is settled and the slot is empty, but for copies of what was cut."""
    if who == "drainer":
        bench = Bench(folder, conf, extra)
        bench.until(lambda: bench.outcome)
        assert bench.outcome == "success", bench.drainer.status()
    else:
        with Sender.from_conf(conf + FAST + extra, sf_dir=folder) as sender:
            sender.wait()
    assert [name for name in left_in(folder) if ".cut-" not in name] == [".lock", ".lock.pid"]


def first_frames(server: QwpServer[Any]) -> list[int]:
    """The first data frame of each connection that had one."""
    return [seen[0] for seen in frames(server) if seen]


@pytest.fixture(params=WHO)
def who(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server() -> Iterator[QwpServer[Any]]:
    with QwpServer() as running:
        yield running


def scripts(server: QwpServer[Any], *of_each_connection: Script) -> None:
    server.set_script([*of_each_connection, Script()])


# --- nobody committed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["ccdd", "ccdddd", "d", "dddd"])
def test_invariant_38_a_row_behind_a_transaction_that_nobody_committed_does_not_commit_it(
    tmp_path: Path, who: str, server: QwpServer[Any], layout: str
) -> None:
    """Also when the row is sent in a later life, by whoever opens the slot then."""
    leave(tmp_path, layout)
    offline(tmp_path, (100,), (101,))
    offline(tmp_path, (102,))
    deliver(who, tmp_path, server.conf)
    assert numbers(server) == [*range(layout.count("c")), 100, 101, 102]


def test_invariant_38_a_drainer_leaves_it_out_too(tmp_path: Path, who: str, server: QwpServer[Any]) -> None:
    leave(tmp_path, "cdcdddd")
    deliver(who, tmp_path, server.conf)
    assert numbers(server) == [0, 1, 2]


# --- one connection -----------------------------------------------------------------------------------


def test_behaviour_3_6_whole_groups_land_once_in_order(tmp_path: Path, who: str, server: QwpServer[Any]) -> None:
    leave(tmp_path)
    deliver(who, tmp_path, server.conf)
    assert numbers(server) == ALL
    assert frames(server) == [ALL]


def test_a_slot_of_our_own_costs_no_look_at_any_frame(
    tmp_path: Path, who: str, server: QwpServer[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(tmp_path, (0,), (1,))
    monkeypatch.setattr("spoolq.runtime.io_loop.is_deferred", lambda _: pytest.fail("a frame was looked at"))
    deliver(who, tmp_path, server.conf)
    assert numbers(server) == [0, 1]


# --- refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsn", ALL)
def test_behaviour_6_5e_a_frame_refused_for_now_replays_its_group_and_no_row_lands_twice(
    tmp_path: Path, who: str, server: QwpServer[Any], fsn: int
) -> None:
    leave(tmp_path)
    scripts(server, Script(reject=(Reject(1 + fsn, Status.INTERNAL_ERROR),)))
    deliver(who, tmp_path, server.conf)
    assert numbers(server) == ALL
    assert first_frames(server) == [0, STARTS[fsn]]


@pytest.mark.parametrize("fsn", ALL)
def test_behaviour_6_5e_a_frame_refused_for_good_is_named_and_its_group_stays_whole(
    tmp_path: Path, server: QwpServer[Any], fsn: int
) -> None:
    leave(tmp_path)
    scripts(server, Script(reject=(Reject(1 + fsn, Status.SCHEMA_MISMATCH),)))
    with pytest.raises(ServerRejection) as raised, Sender.from_conf(server.conf + FAST, sf_dir=tmp_path) as sender:
        sender.wait()
    assert (raised.value.category, raised.value.from_fsn, raised.value.to_fsn) == ("schema_mismatch", fsn, fsn)
    assert numbers(server) == ALL[: STARTS[fsn]]
    deliver("sender", tmp_path, server.conf)
    assert numbers(server) == ALL
    assert first_frames(server) == [0, STARTS[fsn]]


def test_behaviour_6_5e_a_drainer_gives_up_with_the_name_of_the_frame(tmp_path: Path, server: QwpServer[Any]) -> None:
    leave(tmp_path)
    scripts(server, Script(reject=(Reject(1 + 3, Status.SCHEMA_MISMATCH),)))
    bench = Bench(tmp_path, server)
    bench.until(lambda: bench.outcome)
    assert bench.outcome == "failed"
    assert "refused FSN 3 (table 't'): schema mismatch" in bench.text(".failed")
    assert numbers(server) == [0]


@pytest.mark.parametrize("fsn", [1, 3, 5])
def test_behaviour_3_6_no_dead_letter_is_made_of_a_part_of_a_group(
    tmp_path: Path, server: QwpServer[Any], fsn: int
) -> None:
    leave(tmp_path)
    refusal = Script(reject=(Reject(1 + fsn, Status.SCHEMA_MISMATCH),))
    scripts(server, refusal)
    conf = server.conf + FAST + "on_schema_error=drop;"
    with pytest.raises(ServerRejection), Sender.from_conf(conf, sf_dir=tmp_path) as sender:
        sender.wait()
    assert list(tmp_path.glob("*.dead-letter/*")) == []
    assert numbers(server) == [0]


@pytest.mark.parametrize("fsn", [1, 3, 5])
def test_behaviour_3_6_the_head_of_a_group_cannot_be_skipped(tmp_path: Path, server: QwpServer[Any], fsn: int) -> None:
    leave(tmp_path)
    scripts(server, Script(reject=(Reject(1 + fsn, Status.SCHEMA_MISMATCH),)))
    sender = Sender.from_conf(server.conf + FAST, sf_dir=tmp_path)
    with pytest.raises(ServerRejection):
        sender.wait()
    with pytest.raises(NothingToSkipError, match=f"FSN {fsn} was refused, and with FSN 1 begins a transaction"):
        sender.skip_head_frame()
    with suppress(SpoolqError):
        sender.close()
    deliver("sender", tmp_path, server.conf)
    assert numbers(server) == ALL


# --- lost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ALL)
def test_behaviour_4_3_a_connection_lost_behind_any_frame_replays_from_the_group(
    tmp_path: Path, who: str, server: QwpServer[Any], after: int
) -> None:
    """The OKs that are due go out first, so that nothing lands twice."""
    leave(tmp_path)
    scripts(server, Script(drop=Drop(after_frames=2 + after)))
    deliver(who, tmp_path, server.conf)
    assert numbers(server) == ALL
    committed = after if COMMITS[after] == after else STARTS[after] - 1
    assert first_frames(server) == [0, committed + 1][: 1 + (committed + 1 < len(ALL))]


@pytest.mark.parametrize("durable", ["", "request_durable_ack=on;"])
@pytest.mark.parametrize("after", [3, 4])
def test_behaviour_3_6_what_a_server_commits_early_is_sent_again_with_its_group(
    tmp_path: Path, who: str, after: int, durable: str
) -> None:
    """The third row of the group is one too many: its table is committed, and the OK of FSN 3 goes out."""
    leave(tmp_path)
    with QwpServer(uncommitted_rows_max=2, durable_ack=True) as server:
        scripts(server, Script(drop=Drop(after_frames=2 + after)))
        deliver(who, tmp_path, server.conf, durable)
        assert first_frames(server) == [0, 1]
        assert numbers(server) == [0, 1, 2, 3, *range(1, len(ALL))]


# --- another life ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ALL)
def test_behaviour_4_6_the_watermark_and_the_trim_stop_before_an_open_group(tmp_path: Path, after: int) -> None:
    """An OK in the middle, the end of the sender, another one: whole groups, none missing."""
    leave(tmp_path)
    gone = [Script(drop=Drop(after_frames=2 + after)), Script(refuse=Refuse(503))]
    with QwpServer(uncommitted_rows_max=0) as server:
        server.set_script(gone)
        conf = server.conf + "initial_connect_retry=async;close_flush_timeout_millis=0;"
        with suppress(SpoolqError), Sender.from_conf(conf, sf_dir=tmp_path) as sender:
            until(lambda: len(server.connections) >= 2 or sender.acked_fsn() == ALL[-1])
        settled = after if COMMITS[after] == after else STARTS[after] - 1
        if settled < ALL[-1]:
            mark = slot_maker.read_record((tmp_path / "default" / ".ack-watermark").read_bytes(), b"AKW1", 1)
            assert (mark or (-1,)) == (settled,)
            assert set(range(settled + 1, len(ALL))) <= set(slot_maker.read_frames(tmp_path / "default"))
        scripts(server)
        deliver("drainer" if after % 2 and settled < ALL[-1] else "sender", tmp_path, server.conf)
        assert sorted(set(numbers(server))) == ALL
        assert first_frames(server)[1:] == [settled + 1][: settled < ALL[-1]]


_UNTIL_KILLED = """
import sys
from spoolq import Sender
with Sender.from_conf(sys.argv[1], sf_dir=sys.argv[2]):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("after", [2, 4, 7])
def test_behaviour_4_6_a_kill_in_the_middle_of_a_group(tmp_path: Path, who: str, after: int) -> None:
    leave(tmp_path)
    with QwpServer(uncommitted_rows_max=0) as server:
        server.set_script([Script(drop=Drop(after_frames=2 + after)), Script(refuse=Refuse(503))])
        conf = server.conf + "initial_connect_retry=async;"
        command = [sys.executable, "-c", _UNTIL_KILLED, conf, str(tmp_path)]
        with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment()) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"open\n"
            server.wait_for(lambda: len(server.connections) >= 2)
        mark = slot_maker.read_record((tmp_path / "default" / ".ack-watermark").read_bytes(), b"AKW1", 1)
        marked = -1 if mark is None else mark[0]
        assert marked < STARTS[after]
        assert COMMITS[marked] == marked or marked < 0
        scripts(server)
        deliver(who, tmp_path, server.conf)
        assert sorted(set(numbers(server))) == ALL
        assert first_frames(server)[-1] == marked + 1


# --- a frame above the cap --------------------------------------------------------------------------------


def test_behaviour_6_5c_a_group_with_a_frame_above_the_cap_goes_to_the_other_endpoint_whole(
    tmp_path: Path, who: str
) -> None:
    leave(tmp_path, wide=3)
    with QwpServer(script=Script(cap_nbytes=600)) as small, QwpServer() as large:
        deliver(who, tmp_path, f"ws::addr=127.0.0.1:{small.port},127.0.0.1:{large.port};")
        assert numbers(small) == [0]
        assert numbers(large) == ALL[1:]
        assert first_frames(large) == [1]
