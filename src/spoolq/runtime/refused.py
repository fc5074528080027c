"""Of which tables a refused frame has rows: a server names none (wire.md 6), and a user knows tables, not FSNs.

`tables_of(log, fsn)` is called on the I/O thread, when the delivery machine has a refusal before it, and reads the
frame as it stands in the log.  It never fails: a frame that cannot be read, or is not what we write, gives no name,
and what the refusal leads to does not depend on it.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import Final

from spoolq.errors import StorageError
from spoolq.spool import Outgoing

TABLES_MAX: Final = 100

_LOG: Final = logging.getLogger("spoolq.delivery")


def tables_of(log: Outgoing, fsn: int) -> tuple[str, ...]:
    """Their names in the order of their blocks, at most `TABLES_MAX`."""
    try:  # a sender that is never refused anything does without the decoder
        from spoolq.qwp.decode import table_names
        from spoolq.qwp.reader import WireFault
    except (OSError, ImportError, MemoryError) as error:  # an import opens files
        _LOG.debug("the tables of FSN %d are not known: %s", fsn, error)
        return ()
    try:
        run = log.run(fsn, 1, 1)
        if run is None:
            return ()
        try:
            return tuple(islice(table_names(bytes(run.payloads()[0])), TABLES_MAX))
        finally:
            run.release()
    except StorageError as error:
        _LOG.debug("FSN %d cannot be read for its tables: %s", fsn, error)
    except WireFault as fault:
        _LOG.debug("the tables of FSN %d are not known: %s", fsn, fault.text)
    return ()
