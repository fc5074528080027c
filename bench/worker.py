"""One measurement of one client, in a process of its own: `python -m bench.worker CLIENT WHAT PORT ROWS`.

Prints one line of JSON.  ``CLIENT`` is ``spoolq`` or ``questdb``, ``WHAT`` one of

- ``trades``, ``cpu``  ns per ``row()`` call, flushes of the triggers and the last one included (``row_ns``);
                       and until the endpoint had acknowledged all of it (``acked_ns``); and the processor time of
                       all threads for it (``cpu_ns``), which a busy machine disturbs least; all per row
- ``rows``             the same trades by one ``rows()`` call; the official client makes ``row()`` calls
- ``flush``            one row and a ``flush()``, again and again: p50 and p99 of the pair, in ns
- ``import``           time to import the client, RSS then, RSS after a first acknowledged row
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

# Both clients get this string.  The interval trigger is off for both: the official client looks at it in a
# row call, we keep it with a thread, so a number for it would compare two things.
CONF = "ws::addr=127.0.0.1:{port};auto_flush_rows=1000;auto_flush_interval=off;auto_flush_bytes=off;"
_WARM_ROWS = 20_000
_DRAIN_MILLIS = 60_000


def _rss_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


def _client(name: str) -> Any:
    """The client's module: the names used of both are the same."""
    if name == "spoolq":
        import spoolq

        return spoolq
    import questdb

    return questdb


def _drain(sender: Any) -> None:
    """Waits until everything published is acknowledged."""
    fsn = sender.published_fsn()
    if fsn is not None and not sender.await_acked_fsn(fsn, timeout_millis=_DRAIN_MILLIS):
        raise TimeoutError(f"frame {fsn} was not acknowledged within {_DRAIN_MILLIS} ms")


def measure_rows(module: Any, what: str, conf: str, count: int) -> dict[str, float]:
    """Rows by the calls of the workload; the official client has no ``rows`` and makes ``row`` calls for it."""
    from bench import workloads

    at_once = what == "rows" and hasattr(module.Sender, "rows")
    run = workloads.trades_at_once if at_once else workloads.cpu if what == "cpu" else workloads.trades
    rows = (workloads.cpu_rows if what == "cpu" else workloads.trades_rows)(count)
    warm = rows[:_WARM_ROWS]
    at = module.TimestampNanos
    with module.Sender.from_conf(conf) as sender:
        call = sender.rows if at_once else sender.row
        run(call, warm, at)
        sender.flush()
        _drain(sender)
        began, began_cpu = time.perf_counter_ns(), time.process_time_ns()
        run(call, rows, at)
        sender.flush()
        handed = time.perf_counter_ns()
        _drain(sender)
        acked, acked_cpu = time.perf_counter_ns(), time.process_time_ns()
    began_empty = time.perf_counter_ns()
    run(workloads.nothing_at_once if at_once else workloads.nothing, rows, at)
    empty = time.perf_counter_ns() - began_empty
    return {
        "row_ns": (handed - began) / count,
        "acked_ns": (acked - began) / count,
        "cpu_ns": (acked_cpu - began_cpu) / count,
        "loop_alone_ns": empty / count,
    }


def measure_flush(module: Any, conf: str, count: int) -> dict[str, float]:
    """A row and its flush, back to back."""
    from bench import workloads

    rows = workloads.trades_rows(count + 1_000)
    clock, taken = time.perf_counter_ns, []
    at = module.TimestampNanos
    with module.Sender.from_conf(conf) as sender:
        row, flush = sender.row, sender.flush
        for pair, side, price, amount, nanos in rows:
            began = clock()
            row(
                "trades",
                symbols={"symbol": pair, "side": side},
                columns={"price": price, "amount": amount},
                at=at(nanos),
            )
            flush()
            taken.append(clock() - began)
        _drain(sender)
    taken = sorted(taken[1_000:])
    return {"p50_ns": taken[len(taken) // 2], "p99_ns": taken[len(taken) * 99 // 100]}


def measure_import(name: str, conf: str) -> dict[str, float]:
    """What a program pays for having the client."""
    before = _rss_bytes()
    began = time.perf_counter_ns()
    module = _client(name)
    module.Sender  # noqa: B018 - a lazy package would import it only here
    imported = time.perf_counter_ns() - began
    after = _rss_bytes()
    with module.Sender.from_conf(conf) as sender:
        sender.row("t", columns={"x": 1.0}, at=module.TimestampNanos(1))
        sender.flush()
        _drain(sender)
        ready = _rss_bytes()
    return {"import_ns": imported, "rss_import_bytes": after - before, "rss_ready_bytes": ready - before}


def main(name: str, what: str, port: str, count: str) -> None:
    """Runs one measurement and prints it."""
    conf = CONF.format(port=port)
    if what == "import":
        found = measure_import(name, conf)
    elif what == "flush":
        found = measure_flush(_client(name), conf, int(count))
    else:
        found = measure_rows(_client(name), what, conf, int(count))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
