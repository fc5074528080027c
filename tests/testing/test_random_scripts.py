"""Our sender through seeded mixes of faults: every row is there in the end, whatever happened on the way."""

from __future__ import annotations

import pytest

from spoolq import Sender, TimestampNanos
from spoolq.testing import QwpServer, random_scripts, to_json

CONF = (
    "initial_connect_retry=async;auto_flush=off;reconnect_initial_backoff_millis=1;reconnect_max_backoff_millis=5;"
    "close_flush_timeout_millis=30000;poison_min_escalation_window_millis=60000;"
)
ROWS = 40


@pytest.mark.parametrize("seed", range(25))
def test_every_row_arrives(seed: int) -> None:
    scripts = random_scripts(seed, 6)
    with QwpServer(script=scripts) as server:
        with Sender.from_conf(server.conf + CONF) as sender:
            for number in range(ROWS):
                sender.row("t", symbols={"s": f"s{number % 7}"}, columns={"v": number}, at=TimestampNanos(number + 1))
                sender.flush()
        found = {(row["v"], row["s"]) for row in server.store.rows("t")}
    assert found == {(number, f"s{number % 7}") for number in range(ROWS)}, to_json(scripts)
