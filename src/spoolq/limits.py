"""Every bound of the protocol and of this client, in one place, with where it comes from.

Constants only; imports nothing.  Sizes are bytes unless the name says otherwise.
"""

from __future__ import annotations

from typing import Final

# --- QWP message (wire.md 3) -------------------------------------------------------------------
HEADER_BYTES: Final = 12
PROTOCOL_VERSION: Final = 1
PAYLOAD_BYTES_MAX: Final = 16_777_216
TABLES_PER_MESSAGE_MAX: Final = 65_535
ROWS_PER_TABLE_MAX: Final = 1_000_000
COLUMNS_PER_TABLE_MAX: Final = 2_048
NAME_BYTES_MAX: Final = 127
VARINT_BYTES_MAX: Final = 10

# --- symbol dictionary (wire.md 3.3; the caps are the Rust core's) -------------------------------
DICTIONARY_ENTRIES_MAX: Final = 2_000_000
DICTIONARY_ENTRY_BYTES_MAX: Final = 1 << 20
DICTIONARY_BYTES_MAX: Final = 256 << 20
DICTIONARY_WARN_RATIO: Final = 0.8
DICTIONARY_RESTART_ENTRIES: Final = 65_536  # above, the ids begin anew when nothing waits (ours.md 4)

# --- column values (wire.md 4) -------------------------------------------------------------------
ARRAY_DIMENSIONS_MAX: Final = 32
ARRAY_DIMENSION_MAX: Final = (1 << 28) - 1
ARRAY_BYTES_MAX: Final = 512 << 20
COLUMN_BYTES_MAX: Final = (1 << 31) - 1  # VARCHAR or BINARY of one batch: offsets are read as signed (wire.md 4.6)
DECIMAL_SCALE_MAX: Final = 76
GEOHASH_BITS_MAX: Final = 60

# --- responses (wire.md 5) -----------------------------------------------------------------------
ERROR_TEXT_BYTES_MAX: Final = 1_024
RESPONSE_BYTES_MAX: Final = 16 << 20  # an OK for 65,535 tables with the longest names has 9 MB

# --- durable acks (behaviour.md 4.4): the reference server has 10,000 tables on a connection ---------
DURABLE_TABLES_MAX: Final = 65_536
DURABLE_NAMES_LENGTH_MAX: Final = 16 << 20
DURABLE_WAITING_MAX: Final = 65_536  # OKs and their entries that wait; above it OKs are put together
SEQ_TXN_TABLES_MAX: Final = 10_000  # tables of which the highest transaction is kept
GROUPS_MAX: Final = 65_536  # transactions of several frames that wait for their OK; above it they are put together

# --- upgrade (wire.md 1.2; the bounds are the Rust core's) ----------------------------------------
RESPONSE_HEAD_BYTES_MAX: Final = 32 << 10
RESPONSE_LINE_BYTES_MAX: Final = 8 << 10
REFUSAL_BODY_BYTES_MAX: Final = 1_024  # of a refusal's body, as much as an error quotes (ours.md 29a)
ROOTS_FILE_BYTES_MAX: Final = 16 << 20  # tls_roots: all of Mozilla's are 0.3 MB
DEFAULT_PORT: Final = 9_000
CONNECT_MILLIS_SYSTEM: Final = 600_000  # beyond any system's own TCP connect timeout: that one rules
CONNECT_MILLIS_BACKGROUND: Final = 15_000  # reconnects, ASYNC connects and drainers (behaviour.md 1.2)
TOKEN_MILLIS_MAX: Final = 60_000  # how long a connect waits for a token callable; what it brings later serves the next
TOKENS_REFUSED_MAX: Final = 8  # 401s of a token callable between two that were taken; two in a row end it sooner

# --- a connection that says nothing (FOV-08) -------------------------------------------------------
HALF_OPEN_MILLIS_MAX: Final = 1_800_000  # how long a silent peer is waited for at most, unless the setting is larger

# --- behind a loss (ours.md 29a) -------------------------------------------------------------------
WINDOW_OPENS_MILLIS: Final = 200  # what is held up by the window waits so long for an answer, then twice that

# --- errors (behaviour.md 6) ---------------------------------------------------------------------
POLICY_ANSWER_MILLIS: Final = 5_000  # how long `error_policy` may take, then the settings count
ERROR_INBOX_DEFAULT: Final = 256
CONNECTION_INBOX_DEFAULT: Final = 64  # behaviour.md D-7
INBOX_MAX: Final = 1 << 20

# --- frames (ours.md 6) --------------------------------------------------------------------------
BATCH_BYTES_ASSUMED: Final = 2_097_138  # until a connection has told its cap
BYTE_TRIGGER_RATIO: Final = 0.9

# --- segments (slot.md 2.2) ----------------------------------------------------------------------
SEGMENT_HEADER_BYTES: Final = 24
FRAME_HEADER_BYTES: Final = 8
SEGMENT_BYTES_DEFAULT: Final = 4 << 20
SEGMENT_BYTES_MIN: Final = 33
FSN_MAX: Final = 1 << 62  # an i64 on disk; half of it leaves room for every sum
SPOOL_BYTES_DEFAULT_MEMORY: Final = 128 << 20
SPOOL_BYTES_DEFAULT_DISK: Final = 10 << 30

# --- files of the spool (design.md 3: figures) -----------------------------------------------------
FILE_BYTES_MAX: Final = 1 << 40
WRITE_PIECE_BYTES: Final = 64 << 10  # one pwrite; larger ones are slower
MAPPED_FRAME_BYTES_MAX: Final = 64 << 10  # larger frames are written by pwrite instead of through the mapping
SLOT_DESCRIPTORS_MAX: Final = 8
SLOT_MAPPINGS_MAX: Final = 4
TRIM_SEGMENTS_MAX: Final = 64  # removed behind one set of barriers (slot.md 4)
SYNC_INTERVAL_MILLIS_DEFAULT: Final = 5_000  # of sf_durability=periodic

# --- files of a slot (slot.md 2) -----------------------------------------------------------------
RECORD_GENERATION_MAX: Final = 1 << 62
SYMBOL_FILE_BYTES_MAX: Final = 512 << 20  # all entries with the most framing they can have are less
SEGMENTS_PER_SLOT_MAX: Final = 1 << 20
PID_FILE_BYTES_MAX: Final = 64
DRAINERS_MAX: Final = 256  # threads, each with a connection and some ten descriptors
ORPHANS_MAX: Final = 1_024  # slots that one sender drains for others (behaviour.md 7.1)
FORK_WAIT_SECONDS_MAX: Final = 1.0  # for a file that another thread opens or closes just now
LOCK_TRIES_MAX: Final = 16  # openings of a lock file that was replaced before it was locked
SET_ASIDE_MAX: Final = 64  # slots renamed to <id>.unreplayable-<N>
COPY_NUMBER_MAX: Final = 10_000  # copies of one cut place, quarantined files of one name
DEAD_LETTER_BYTES_DEFAULT: Final = 256 << 20  # of all letters of a sender (ours.md 22)
DEAD_LETTER_BYTES_MAX: Final = (64 << 10) + (2 << 30)  # of one: the largest frame a segment takes, and a text
