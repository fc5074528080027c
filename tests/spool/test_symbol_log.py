""".symbol-dict: chunks, what a reader trusts, write-ahead and roll-back (slot.md 2.7)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.errors import StorageError
from spoolq.spool import symbol_log
from spoolq.spool.files import Files
from spoolq.spool.symbol_log import SymbolLog, UnknownDictionaryVersion, parse_symbols, read_symbols
from tests.spool import slot_maker
from tests.spool.files_double import FailingFiles

_TWO = slot_maker.golden("symbols-two-chunks")


def _texts(table: SymbolTable) -> list[str]:
    return [table.text_of(i) for i in range(len(table))]


def _table(*texts: str) -> SymbolTable:
    table = SymbolTable()
    for text in texts:
        table.intern(text)
    return table


def test_invariant_01_dictionary_files_are_the_golden_ones(tmp_path: Path) -> None:
    table = _table("one", "two", "three")
    log = SymbolLog.create(Files(), str(tmp_path))
    log.write_ahead(table, 0, 1)
    log.write_ahead(table, 1, 3)
    log.close()
    assert (tmp_path / symbol_log.NAME).read_bytes() == _TWO == slot_maker.symbol_dict(["one"], ["two", "three"])
    assert symbol_log.HEADER + symbol_log.chunk(_table("a"), 0, 1) == slot_maker.golden("symbols-one")
    assert _texts(parse_symbols(_TWO).table) == ["one", "two", "three"]


def test_a_flipped_byte_in_the_second_chunk_leaves_one_symbol_and_18_bytes() -> None:
    found = parse_symbols(_TWO[:21] + bytes([_TWO[21] ^ 1]) + _TWO[22:])
    assert (_texts(found.table), found.trusted_nbytes, found.rest) == (["one"], 18, "damaged")


def test_invariant_31_truncation_gives_a_prefix_and_a_flip_never_a_wrong_symbol() -> None:
    for cut in range(len(_TWO) + 1):
        texts = _texts(parse_symbols(_TWO[:cut]).table)
        assert texts == ["one", "two", "three"][: len(texts)]
        assert len(texts) == (3 if cut == len(_TWO) else 1 if cut >= 18 else 0)
    for bit in range(len(_TWO) * 8):
        damaged = bytearray(_TWO)
        damaged[bit // 8] ^= 1 << bit % 8
        if bit // 8 == 4:
            with pytest.raises(UnknownDictionaryVersion):
                parse_symbols(bytes(damaged))
            continue
        found = parse_symbols(bytes(damaged))
        assert _texts(found.table) == ["one", "two", "three"][: len(found.table)]
        assert (len(found.table) == 3) == (5 <= bit // 8 < 8)  # the three zero bytes are not checked


@given(st.lists(st.lists(st.text(max_size=300), min_size=1, max_size=5), max_size=5), st.binary(max_size=40))
def test_chunks_of_the_independent_maker_are_read(chunks: list[list[str]], rest: bytes) -> None:
    flat = [text for texts in chunks for text in texts]
    if len(set(flat)) != len(flat):
        assert parse_symbols(slot_maker.symbol_dict(*chunks)).state == "duplicate"
        return
    data = slot_maker.symbol_dict(*chunks)
    found = parse_symbols(data + rest)
    if not rest.strip(b"\0"):
        assert (_texts(found.table), found.trusted_nbytes) == (flat, len(data))
        assert found.rest == ("zeros" if rest else "none")
    assert _texts(found.table)[: len(flat)] == flat
    assert found.table.published_count == len(found.table)


@pytest.mark.parametrize(
    ("data", "state", "rest"),
    [
        (b"", "unusable", "none"),
        (b"SYD1\1\0\0", "unusable", "none"),
        (b"SYD2\1\0\0\0", "unusable", "none"),
        (b"SYD1\1\0\0\0", "valid", "none"),
        (_TWO + bytes(4096), "valid", "zeros"),
        (_TWO + slot_maker.chunk(["four"])[:-1], "valid", "unfinished"),
        (_TWO + slot_maker.chunk(["four"])[:4], "valid", "unfinished"),
        (_TWO + slot_maker.chunk(["four"])[:-1] + b"\0", "valid", "damaged"),
        (symbol_log.HEADER + slot_maker.chunk(["four"])[:-1], "valid", "damaged"),  # may be an unframed ancestor
        (symbol_log.HEADER + b"\3one\3two", "valid", "damaged"),
        (_TWO + slot_maker.chunk([]), "valid", "damaged"),
        (_TWO + slot_maker.chunk([b"\xff\xfe"]), "valid", "damaged"),
        (slot_maker.symbol_dict(["a", "a"]), "duplicate", "none"),
        (slot_maker.symbol_dict(["a"], ["b", "a"]), "duplicate", "none"),
    ],
)
def test_what_a_reader_says_of_each_state(data: bytes, state: str, rest: str) -> None:
    found = parse_symbols(data)
    assert (found.state, found.rest) == (state, rest)
    assert len(found.table) == (3 if state == "valid" and data.startswith(_TWO) else 0)


def test_a_chunk_that_says_one_entry_too_many_or_a_region_too_long_ends_the_content() -> None:
    region = slot_maker.entries(["four"])
    for count, nbytes in ((2, len(region)), (1, len(region) + 1), (1, len(region) - 1)):
        body = slot_maker.varint(count) + slot_maker.varint(nbytes) + region + b"\0"
        body = body[: 2 + nbytes]
        data = _TWO + body + slot_maker.crc32c(body).to_bytes(4, "little")
        assert parse_symbols(data).trusted_nbytes == len(_TWO)


def test_limits_of_the_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = "x" * (limits.DICTIONARY_ENTRY_BYTES_MAX + 1)
    assert parse_symbols(symbol_log.HEADER + slot_maker.chunk([huge[:-1]])).rest == "none"
    assert parse_symbols(symbol_log.HEADER + slot_maker.chunk([huge])).rest == "damaged"
    monkeypatch.setattr(symbol_log.SymbolTable.__init__, "__defaults__", (2, 10, 10))
    assert parse_symbols(_TWO).state == "full"
    (tmp_path / symbol_log.NAME).write_bytes(_TWO)
    monkeypatch.setattr(limits, "SYMBOL_FILE_BYTES_MAX", len(_TWO) - 1)
    assert read_symbols(Files(), str(tmp_path)).state == "unusable"


def test_read_absent_link_and_directory(tmp_path: Path) -> None:
    assert read_symbols(Files(), str(tmp_path)).state == "absent"
    path = tmp_path / symbol_log.NAME
    path.mkdir()
    with pytest.raises(StorageError):
        read_symbols(Files(), str(tmp_path))
    path.rmdir()
    path.symlink_to(tmp_path)
    with pytest.raises(StorageError, match="link"):
        read_symbols(Files(), str(tmp_path))


@pytest.mark.parametrize("rest", [b"", bytes(4096), b"\1\2\1"])
def test_open_cuts_behind_the_last_whole_chunk_and_goes_on(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / symbol_log.NAME
    path.write_bytes(_TWO + rest)
    found = read_symbols(Files(), str(tmp_path))
    sizes = {"trusted_nbytes": found.trusted_nbytes, "nbytes": found.nbytes}
    log = SymbolLog.open(Files(), str(tmp_path), count=len(found.table), **sizes)
    assert path.read_bytes() == _TWO
    found.table.intern("four")
    log.write_ahead(found.table, 3, 4)
    log.close()
    assert path.read_bytes() == _TWO + slot_maker.chunk(["four"])


def test_what_is_only_known_from_frames_goes_ahead_as_a_chunk_of_its_own(tmp_path: Path) -> None:
    log = SymbolLog.create(Files(), str(tmp_path))
    table = _table("a", "b", "c", "d")
    log.write_ahead(table, 3, 4)
    log.close()
    assert (tmp_path / symbol_log.NAME).read_bytes() == slot_maker.symbol_dict(["a", "b", "c"], ["d"])


def test_the_backlog_also_goes_out_with_a_frame_without_symbols_of_its_own(tmp_path: Path) -> None:
    log = SymbolLog.create(Files(), str(tmp_path))
    table = _table("a", "b")
    log.write_ahead(table, 2, 2)
    log.write_ahead(table, 2, 2)
    log.close()
    assert (tmp_path / symbol_log.NAME).read_bytes() == slot_maker.symbol_dict(["a", "b"])


def test_invariant_30_a_failed_publish_rolls_the_file_back(tmp_path: Path) -> None:
    log = SymbolLog.create(Files(), str(tmp_path))
    table = _table("a", "b", "c")
    log.write_ahead(table, 0, 1)
    mark = log.write_ahead(table, 1, 3)
    log.rollback(mark)
    assert (tmp_path / symbol_log.NAME).read_bytes() == slot_maker.symbol_dict(["a"])
    assert log.count == 1
    assert log.usable
    table.truncate(1)
    table.intern("other")
    log.write_ahead(table, 1, 2)
    log.close()
    assert (tmp_path / symbol_log.NAME).read_bytes() == slot_maker.symbol_dict(["a"], ["other"])


class _HalfWritten(FailingFiles):
    """The write of step ``nth`` stores half of its bytes, then fails."""

    def write(self, file: object, offset: int, data: bytes) -> None:  # type: ignore[override]
        if self.seen == self.nth:
            Files.write(self, file, offset, data[: len(data) // 2])  # type: ignore[arg-type]
        FailingFiles.write(self, file, offset, data)  # type: ignore[arg-type]


def test_invariant_05_a_write_ahead_that_fails_half_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    log = SymbolLog.create(_HalfWritten(2), str(tmp_path))
    table = _table("a", "b")
    with pytest.raises(StorageError):
        log.write_ahead(table, 0, 2)
    assert (tmp_path / symbol_log.NAME).read_bytes() == symbol_log.HEADER
    assert (log.count, log.usable) == (0, True)
    log.write_ahead(table, 0, 2)
    log.close()
    assert _texts(parse_symbols((tmp_path / symbol_log.NAME).read_bytes()).table) == ["a", "b"]


def test_a_file_that_cannot_be_cut_back_loses_its_magic_and_the_session_is_dense(tmp_path: Path) -> None:
    log = SymbolLog.create(FailingFiles(0, only=("truncate",)), str(tmp_path))
    mark = log.write_ahead(_table("a"), 0, 1)
    log.rollback(mark)
    assert not log.usable
    log.close()
    assert (tmp_path / symbol_log.NAME).read_bytes()[:4] == bytes(4)
    assert read_symbols(Files(), str(tmp_path)).state == "unusable"


def test_rollback_never_raises(tmp_path: Path) -> None:
    files = FailingFiles(3, count=None, only=("truncate", "write", "create"))
    log = SymbolLog.create(files, str(tmp_path))
    mark = log.write_ahead(_table("a"), 0, 1)
    log.rollback(mark)
    assert not log.usable
    log.close()


@pytest.mark.parametrize("step", range(2))
def test_invariant_42_a_dictionary_that_cannot_be_made_leaves_no_file(tmp_path: Path, step: int) -> None:
    with pytest.raises(StorageError):
        SymbolLog.create(FailingFiles(step), str(tmp_path))
    assert list(tmp_path.iterdir()) == []
