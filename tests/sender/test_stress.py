"""A producer against a server that drops, delays and refuses at random (seeded): nothing lost, nothing invented."""

from __future__ import annotations

import random
from typing import Any

import pytest

from spoolq.testing import Answer, Close, Drop, QwpServer, Refuse, Reject, Script

from .harness import Call, Recorder, numbers, open_sender, put

_TABLES = ("a", "b", "c")


def _script(rng: random.Random) -> Script:
    frame = rng.randrange(1, 10)
    fault: dict[str, Any] = rng.choice(
        [
            {"drop": Drop(after_frames=frame, before_ack=rng.random() < 0.5, reset=rng.random() < 0.3)},
            {"drop": Drop(after_nbytes=rng.randrange(1, 4_000))},
            {"drop": Drop(mid_frame=frame)},
            {"close": Close(frame, rng.choice((1000, 1001, 1011)))},
            {"reject": (Reject(frame, rng.choice((0x06, 0x09, 0x0C))),)},
            {"answers": (Answer(frame, rng.choice(("garbage", "empty", "half"))),)},
            {"refuse": Refuse(503)},
        ]
    )
    acks: dict[str, Any] = rng.choice(
        [{}, {"ack_delay_millis": rng.randrange(1, 8)}, {"ack_twice": True}, {"ack_every": 3}]
    )
    if "reject" in fault:  # a refusal behind an answer that was left out is terminal (behaviour.md 6.5 e)
        acks.pop("ack_every", None)
    return Script(**fault, **acks)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_stress_every_row_lands_at_least_once_in_order_and_nothing_else_does(seed: int) -> None:
    rng = random.Random(seed)
    scripts = [Script(), *(_script(rng) for _ in range(40)), Script()]
    refusals, listener = Recorder(), Recorder()
    count = 900
    with QwpServer(script=scripts) as server:
        with open_sender(
            server,
            "auto_flush=on;auto_flush_rows=7;auto_flush_interval=2;max_frame_rejections=1000;"
            "sf_max_segment_bytes=65536;sf_max_total_bytes=262144;close_flush_timeout_millis=30000;",
            handler=refusals,
            listener=listener,
        ) as sender:

            def produce() -> None:
                for number in range(count):
                    put(sender, number, table=_TABLES[number % 3])
                    if rng.random() < 0.05:
                        sender.flush()
                    if rng.random() < 0.02:
                        server.drop_connections(reset=rng.random() < 0.5)

            Call(produce).outcome()
            sender.drain()
            stats = sender.stats()
        for index, table in enumerate(_TABLES):
            wanted = list(range(index, count, 3))
            landed = numbers(server, table)
            assert set(landed) == set(wanted), "each at least once, and nothing that was never published"
            first_seen = list(dict.fromkeys(landed))
            assert first_seen == wanted, "in order"
        assert server.store.tables() == list(_TABLES)
    assert stats.frames_unacked == 0
    assert stats.total_reconnects_succeeded >= 10
    assert stats.last_terminal_error is None
    assert all(event.policy != "terminal" for event in refusals.told)
