"""The latency reports print what they promise; how long anything took is never asserted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def report(module: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", module, "--quick", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def percentiles(line: str) -> list[float]:
    """p50, p99 and p99.9, which rise."""
    found = [float(number.replace(",", "")) for number in re.findall(r"p(?:50|99|99\.9) ([\d,.]+) us", line)]
    assert len(found) == 3, line
    assert 0 < found[0] <= found[1] <= found[2]
    return found


def test_nfr_03_the_append_report_has_percentiles_with_sync_off_and_on(tmp_path: Path) -> None:
    lines = report("bench.spool", str(tmp_path))
    assert [re.match(r"sync (on|off)", line)[1] for line in lines] == ["off", "on"]  # type: ignore[index]
    for line in lines:
        percentiles(line)
    assert list(tmp_path.iterdir()) == []


def test_nfr_04_both_clients_to_the_acknowledgement_of_the_strict_server_with_quiet_logs() -> None:
    lines = report("bench.latency")
    assert [line.partition(":")[0].strip() for line in lines] == ["spoolq", "questdb"]
    for line in lines:
        percentiles(line)
    assert lines[0].endswith("; 0 lines logged")
