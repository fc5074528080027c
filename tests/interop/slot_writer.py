"""The program of one writer on a slot: the official client or ours, told by lines what to do.

    python slot_writer.py official|ours CONNECT_STRING

On its own it opens the slot.  Then it does what comes on stdin, and says on stdout what has come true, a whole line
at a time, so that what a reader got before a SIGKILL is so:

    (start)                                     opening, then: open NEWEST_FSN | failed TEXT
    write FIRST FLUSHES ROWS TABLES SYMBOLS     a flush: try FIRST END, then: kept FSN FIRST END; at last: written
    await FSN                                   acked FSN | not acked FSN
    close                                       closing, then: closed TEXT (empty: without an error)

Row ``n`` is `row_of(n, tables, symbols)`; FSN -1 is "none".  A closed stdin ends the process without a close.  It
imports nothing but its client.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

FIRST_NANOS = 10**18


def row_of(n: int, tables: int, symbols: int) -> tuple[str, dict[str, str], dict[str, Any], int]:
    """Table, symbols, columns and time of row ``n``: ``text`` says once more, without a dictionary, what ``s`` is."""
    text = f"sym-{n * 7919 % symbols}"
    return f"t{n % tables}", {"s": text, "side": "buy" if n % 3 else "sell"}, {"n": n, "text": text}, FIRST_NANOS + n


def say(*words: object) -> None:
    """One line, in one write."""
    os.write(1, (" ".join(map(str, words)).replace("\n", " ") + "\n").encode())


def open_client(client: str, conf: str) -> tuple[Any, Any]:
    """A sender that has its slot, and the class of its timestamps."""
    if client == "official":
        import questdb

        sender = questdb.Sender.from_conf(conf)
        say("opening")
        sender.establish()
        return sender, questdb.TimestampNanos
    import spoolq

    say("opening")
    return spoolq.Sender.from_conf(conf), spoolq.TimestampNanos


def write(sender: Any, nanos: Any, first: int, flushes: int, rows: int, tables: int, symbols: int) -> None:
    """``flushes`` batches of ``rows`` rows, each tried and reported."""
    for start in range(first, first + flushes * rows, rows):
        for n in range(start, start + rows):
            table, texts, columns, at = row_of(n, tables, symbols)
            sender.row(table, symbols=texts, columns=columns, at=nanos(at))
        say("try", start, start + rows)
        say("kept", sender.flush_and_get_fsn(), start, start + rows)
    say("written")


def main(client: str, conf: str) -> None:
    """Until stdin or the slot is closed."""
    logging.getLogger().addHandler(logging.NullHandler())  # outages are expected here
    try:
        sender, nanos = open_client(client, conf)
    except Exception as error:  # whatever a client raises: the reader knows what it expects
        say("failed", type(error).__name__, error)
        return
    newest = sender.published_fsn()
    say("open", -1 if newest is None else newest)
    for line in sys.stdin:
        command, *words = line.split()
        numbers = [int(word) for word in words]
        if command == "write":
            first, flushes, rows, tables, symbols = numbers
            write(sender, nanos, first, flushes, rows, tables, symbols)
        elif command == "await":
            say("acked" if sender.await_acked_fsn(numbers[0], 100_000) else "not acked", numbers[0])
        elif command == "close":
            say("closing")
            try:
                sender.close()
            except Exception as error:
                say("closed", type(error).__name__, error)
            else:
                say("closed")
            return
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
