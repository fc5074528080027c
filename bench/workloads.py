"""The rows of the benchmarks: made before the clock runs, the same for both clients.

A workload is a function that calls ``row`` once for each prepared tuple, with the two dict literals and the
timestamp object a program would write.  What the loop itself costs, timestamp object included, is measured with
a call that does nothing (`nothing`) and printed beside the figures, not taken from them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

BASE_NANOS = 1_700_000_000_000_000_000
STEP_NANOS = 1_000_003
_SEED = 20_240_501

Rows = list[tuple[Any, ...]]
Row = Callable[..., Any]

_PAIRS = ("BTC-USD", "ETH-USD", "SOL-USD", "BTC-EUR", "ETH-EUR", "SOL-EUR", "ADA-USD", "XRP-USD")
_REGIONS = ("us-east-1", "us-west-1", "us-west-2", "eu-west-1", "eu-central-1", "ap-southeast-1", "sa-east-1")


def trades_rows(count: int) -> Rows:
    """2 symbols, 2 doubles, timestamp."""
    chance = random.Random(_SEED)
    return [
        (
            chance.choice(_PAIRS),
            chance.choice(("buy", "sell")),
            chance.uniform(1.0, 70_000.0),
            chance.uniform(0.0001, 3.0),
            BASE_NANOS + index * STEP_NANOS,
        )
        for index in range(count)
    ]


def trades(row: Row, rows: Rows, at: Callable[[int], Any]) -> None:
    """One ``row`` call a trade."""
    for pair, side, price, amount, nanos in rows:
        row(
            "trades",
            symbols={"symbol": pair, "side": side},
            columns={"price": price, "amount": amount},
            at=at(nanos),
        )


def trades_at_once(rows_call: Row, rows: Rows, at: Callable[[int], Any]) -> None:
    """The same trades by ``rows``: a tuple a row with its timestamp made on the way, as a program would."""
    rows_call(
        "trades",
        ((pair, side, price, amount, at(nanos)) for pair, side, price, amount, nanos in rows),
        symbols=("symbol", "side"),
        columns=("price", "amount"),
    )


def cpu_rows(count: int) -> Rows:
    """TSBS cpu-only: 10 symbols of 100 hosts, 10 longs, timestamp."""
    chance = random.Random(_SEED)
    hosts = [
        (
            f"host_{number}",
            chance.choice(_REGIONS),
            f"{chance.choice(_REGIONS)}{chance.choice('abc')}",
            str(chance.randrange(100)),
            chance.choice(("Ubuntu15.10", "Ubuntu16.04LTS", "Ubuntu16.10")),
            chance.choice(("x64", "x86")),
            chance.choice(("CHI", "LON", "NYC", "SF")),
            str(chance.randrange(20)),
            str(chance.randrange(2)),
            chance.choice(("production", "staging", "test")),
        )
        for number in range(100)
    ]
    return [
        (
            *hosts[index % len(hosts)],
            *(chance.randrange(101) for _ in range(10)),
            BASE_NANOS + index // len(hosts) * 10_000_000_000,
        )
        for index in range(count)
    ]


def cpu(row: Row, rows: Rows, at: Callable[[int], Any]) -> None:
    """One ``row`` call a reading."""
    for r in rows:
        row(
            "cpu",
            symbols={
                "hostname": r[0],
                "region": r[1],
                "datacenter": r[2],
                "rack": r[3],
                "os": r[4],
                "arch": r[5],
                "team": r[6],
                "service": r[7],
                "service_version": r[8],
                "service_environment": r[9],
            },
            columns={
                "usage_user": r[10],
                "usage_system": r[11],
                "usage_idle": r[12],
                "usage_nice": r[13],
                "usage_iowait": r[14],
                "usage_irq": r[15],
                "usage_softirq": r[16],
                "usage_steal": r[17],
                "usage_guest": r[18],
                "usage_guest_nice": r[19],
            },
            at=at(r[20]),
        )


def nothing(table: str, *, symbols: dict[str, Any], columns: dict[str, Any], at: Any) -> None:
    """A ``row`` that does nothing."""


def nothing_at_once(_table: str, rows: Iterable[Any], **_names: tuple[str, ...]) -> None:
    """A ``rows`` that does nothing but go through them."""
    for _ in rows:
        pass
