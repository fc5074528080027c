"""`python -m bench`: both clients, alternating, each measurement in a fresh process; prints and stores figures.

A pair is one run of us and one of the official client, in turn first, against one endpoint process
(`bench.sink`).  Shown are the medians of both and the median of the pairs' ratios (official / us: above 1 we
are quicker or smaller).  `bench/results/latest.json` keeps every single run, with settings, versions, machine and
the load of the machine before each workload: a figure taken while something else ran is worth little.

``--quick`` runs everything once with few rows, to see that it works: such figures say nothing and are not kept.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from bench.machine import load_average, machine, versions
from bench.start import environment, measure_start
from bench.worker import CONF

CLIENTS = ("spoolq", "questdb")
RESULTS = Path(__file__).parent / "results" / "latest.json"
_READS_MODULES = ("import", "start")
_DIFFERS = (
    "nothing in the connect string; outside it: spoolq queues in segments of sf_max_segment_bytes and has a keeper "
    "thread beside its I/O thread, the official client keeps both in its own core"
)


class Figure(NamedTuple):
    """One line of the report: a value that the worker prints under ``key`` for the workload ``what``."""

    what: str
    key: str
    title: str
    unit: str
    divisor: float


FIGURES = (
    Figure("trades", "row_ns", "row() trades, 2 symbols, 2 doubles, handed over", "ns/row", 1),
    Figure("trades", "acked_ns", "row() trades, until acknowledged", "ns/row", 1),
    Figure("trades", "cpu_ns", "row() trades, processor time", "ns/row", 1),
    Figure("cpu", "row_ns", "row() TSBS cpu, 10 symbols, 10 longs, handed over", "ns/row", 1),
    Figure("cpu", "acked_ns", "row() TSBS cpu, until acknowledged", "ns/row", 1),
    Figure("cpu", "cpu_ns", "row() TSBS cpu, processor time", "ns/row", 1),
    Figure("rows", "row_ns", "rows() trades against official row(), handed over", "ns/row", 1),
    Figure("rows", "acked_ns", "rows() trades against official row(), acked", "ns/row", 1),
    Figure("rows", "cpu_ns", "rows() trades against official row(), processor time", "ns/row", 1),
    Figure("flush", "p50_ns", "row() + flush(), p50", "ns", 1),
    Figure("flush", "p99_ns", "row() + flush(), p99", "ns", 1),
    Figure("start", "start_ns", "process start to the first acknowledged row", "ms", 1e6),
    Figure("import", "import_ns", "import", "ms", 1e6),
    Figure("import", "rss_import_bytes", "RSS of the import", "MiB", 1 << 20),
    Figure("import", "rss_ready_bytes", "RSS of import and one acknowledged row", "MiB", 1 << 20),
)


class Sink:
    """The endpoint's process, for a ``with`` block."""

    def __enter__(self) -> Sink:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate()  # its standard input ends, and so does it


def run(client: str, what: str, port: str, count: int) -> dict[str, float]:
    """One measurement in a process of its own."""
    if what == "start":
        return measure_start(client, port)
    done = subprocess.run(
        [sys.executable, "-m", "bench.worker", client, what, port, str(count)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{client} {what} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(what: str, pairs: int, count: int) -> dict[str, list[dict[str, float]]]:
    """``pairs`` runs of each client, alternating which one goes first.

    Where a run is a few modules being read, one of each goes before and is not counted: it compiles them.
    """
    runs: dict[str, list[dict[str, float]]] = {client: [] for client in CLIENTS}
    with Sink() as sink:
        if what in _READS_MODULES:
            for client in CLIENTS:
                run(client, what, sink.port, count)
        for pair in range(pairs):
            for client in CLIENTS if pair % 2 == 0 else CLIENTS[::-1]:
                print(f"\r{what:>7} {pair + 1}/{pairs} {client:<8}", end="", file=sys.stderr, flush=True)
                runs[client].append(run(client, what, sink.port, count))
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
    return runs


def summary(figure: Figure, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of both clients and of the pairs' ratios."""
    ours, theirs = ([one[figure.key] / figure.divisor for one in runs[client]] for client in CLIENTS)
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {
        "figure": figure.title,
        "unit": figure.unit,
        "spoolq": statistics.median(ours),
        "questdb": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "runs": {"spoolq": ours, "questdb": theirs},
    }


def arguments() -> argparse.Namespace:
    """The command line; ``--quick`` is filled in."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="spoolq and questdb side by side")
    parser.add_argument("--pairs", type=int, default=7, help="runs of each client (default 7)")
    parser.add_argument("--rows", type=int, default=300_000, help="rows a run (default 300000)")
    parser.add_argument("--flushes", type=int, default=10_000, help="row + flush a run (default 10000)")
    parser.add_argument("--only", nargs="*", choices=[*dict.fromkeys(f.what for f in FIGURES)], help="some workloads")
    parser.add_argument("--out", type=Path, help="JSON file (default bench/results/latest.json)")
    parser.add_argument("--quick", action="store_true", help="one pair of a few rows; kept only where --out says")
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.rows, options.flushes = 1, 3_000, 300
    elif options.out is None:
        options.out = RESULTS
    return options


def show_head(report: dict[str, Any]) -> None:
    """What was measured on what."""
    known, mine = report["versions"], report["machine"]
    bodies = f"hot rooms {known['spoolq implementation']}, row buffer {known['spoolq row buffer']}"
    print(f"spoolq {known['spoolq']} ({bodies}) and questdb {known['questdb']}, {known['python']}")
    print(f"{mine['processor']}, {mine['cores']} cores, {mine['system']}, load {mine['load_average_1m']}")
    print(f"{report['settings']['pairs']} pairs, a fresh process each; both with {CONF}")
    print(f"{'':60} {'spoolq':>9} {'questdb':>9} {'ratio':>7}")


def show_figures(lines: list[dict[str, Any]], runs: dict[str, list[dict[str, float]]]) -> None:
    """The lines of one workload."""
    for line in lines:
        shown = f"{line['spoolq']:9.1f} {line['questdb']:9.1f} {line['ratio']:6.2f}x"
        print(f"{line['figure']:60} {shown}  {line['unit']}")
    if "loop_alone_ns" in runs["spoolq"][0]:
        empty = [statistics.median(one["loop_alone_ns"] for one in runs[client]) for client in CLIENTS]
        print(f"{'  (the same loop with a call that does nothing)':60} {empty[0]:9.1f} {empty[1]:9.1f}")


def main() -> None:
    """Measures, prints, stores."""
    options = arguments()
    report: dict[str, Any] = {
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "settings": {"connect string": CONF, "differs": _DIFFERS, "pairs": options.pairs},
        "figures": [],
    }
    show_head(report)
    for what in options.only or dict.fromkeys(figure.what for figure in FIGURES):
        count = options.flushes if what == "flush" else 1 if what in _READS_MODULES else options.rows
        load = load_average()
        runs = measure(what, options.pairs, count)
        settings = {**report["settings"], "workload": what, "count": count, "load_average_1m_before": load}
        lines = [
            {**summary(figure, runs), "settings": settings, "machine": report["machine"]}
            for figure in FIGURES
            if figure.what == what
        ]
        show_figures(lines, runs)
        report["figures"] += lines
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"every run, with settings, versions and machine: {options.out}")


if __name__ == "__main__":
    main()
