"""The frame reader: strict, bounded, and the same whatever the stream is cut into (wire.md 2)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets import frames
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode

from spoolq import limits
from spoolq.link.inbound import Binary, Breach, Close, FrameReader, Inbound, Ping


def server_frame(opcode: int, payload: bytes = b"", final: bool = True) -> bytes:
    """As the websockets package makes it."""
    return bytes(Frame(Opcode(opcode), payload, final).serialize(mask=False))


def read(data: bytes, step: int = 1 << 20) -> list[Inbound]:
    reader = FrameReader()
    found: list[Inbound] = []
    for start in range(0, len(data), step):
        found += reader.feed(data[start : start + step])
    return found


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536, 300_000])
def test_a_binary_message_of_each_length_form(length: int) -> None:
    assert read(server_frame(2, b"x" * length), 1 << 14) == [Binary(b"x" * length)]


def test_an_answer_of_the_largest_size_is_taken_and_one_byte_more_is_a_breach_at_its_head() -> None:
    reader = FrameReader()
    head = b"\x82\x7f" + struct.pack(">Q", limits.RESPONSE_BYTES_MAX)
    assert reader.feed(head) == []
    (message,) = reader.feed(bytes(limits.RESPONSE_BYTES_MAX))
    assert isinstance(message, Binary)
    (breach,) = read(b"\x82\x7f" + struct.pack(">Q", limits.RESPONSE_BYTES_MAX + 1))
    assert isinstance(breach, Breach)


def test_fragments_count_together() -> None:
    reader = FrameReader()
    reader.feed(server_frame(2, bytes(limits.RESPONSE_BYTES_MAX), final=False))
    assert isinstance(reader.feed(server_frame(0, b"x", final=False))[0], Breach)


def test_many_tiny_fragments_are_cheap_to_join() -> None:
    data = server_frame(2, b"a", final=False) + server_frame(0, b"b", final=False) * 200_000 + server_frame(0, b"c")
    (message,) = read(data, 1 << 16)
    assert message == Binary(b"a" + b"b" * 200_000 + b"c")


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_fragments_around_control_frames_cut_anywhere(step: int) -> None:
    data = (
        server_frame(2, b"ab", final=False)
        + server_frame(9, b"ping")
        + server_frame(0, b"", final=False)
        + server_frame(10, b"pong")
        + server_frame(0, b"cd")
        + server_frame(2, b"next")
        + server_frame(8, struct.pack(">H", 1000) + "grüße".encode())
    )
    assert read(data, step) == [Ping(b"ping"), Binary(b"abcd"), Binary(b"next"), Close(1000, "grüße")]


BREACHES = {
    "text": b"\x81\x01a",
    "reserved opcode 3": b"\x83\x00",
    "reserved opcode 11": b"\x8b\x00",
    "masked": b"\x82\x81abcdx",
    "RSV1": b"\xc2\x00",
    "RSV2": b"\xa2\x00",
    "RSV3": b"\x92\x00",
    "RSV on a control frame": b"\xc9\x00",
    "126 in 16 bits": b"\x82\x7e\x00\x7d" + bytes(125),
    "65535 in 64 bits": b"\x82\x7f" + struct.pack(">Q", 65_535),
    "top bit of 64": b"\x82\x7f" + struct.pack(">Q", 1 << 63),
    "fragmented ping": b"\x09\x00",
    "fragmented close": b"\x08\x00",
    "long ping": b"\x89\x7e\x00\x7e" + bytes(126),
    "continuation of nothing": b"\x80\x00",
    "binary inside fragments": b"\x02\x01a\x82\x01b",
    "close of one byte": b"\x88\x01\x03",
    "close reason not UTF-8": b"\x88\x03\x03\xe8\xff",
    **{f"close {code}": b"\x88\x02" + struct.pack(">H", code) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)},
}


@pytest.mark.parametrize("name", BREACHES)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_a_breach_ends_everything(name: str, step: int) -> None:
    found = read(server_frame(2, b"before") + BREACHES[name] + server_frame(2, b"after"), step)
    assert found[0] == Binary(b"before")
    assert isinstance(found[-1], Breach)
    assert len(found) == 2


def test_nothing_is_kept_after_the_end() -> None:
    for end in (b"\x81\x00", b"\x88\x00"):
        reader = FrameReader()
        reader.feed(end)
        for _ in range(100):
            assert reader.feed(bytes(1 << 16)) == []
        assert not reader._buffer


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1014, 3000, 4999])
def test_a_close_code_that_may_be_on_the_wire(code: int) -> None:
    assert read(b"\x88\x02" + struct.pack(">H", code)) == [Close(code, "")]


def by_others(data: bytes) -> list[tuple[str, object]] | None:
    """What the websockets package makes of one frame; None when it refuses or wants more."""
    position = 0

    def exactly(count: int):  # type: ignore[no-untyped-def]
        nonlocal position
        if position + count > len(data):
            raise EOFError
        position += count
        return data[position - count : position]
        yield

    parser = Frame.parse(exactly, mask=False, max_size=1 << 16)
    try:
        next(parser)
    except StopIteration as end:
        if end.value.opcode is Opcode.CLOSE:
            frames.Close.parse(end.value.data)
        return [(end.value.opcode.name, end.value.data)]
    except EOFError:
        return None
    raise AssertionError


@settings(max_examples=2_000)
@given(head=st.binary(min_size=2, max_size=2), rest=st.binary(max_size=200))
def test_whatever_the_websockets_package_refuses_is_a_breach_here(head: bytes, rest: bytes) -> None:
    data = head + rest
    found = read(data)
    try:
        theirs = by_others(data)
    except (ProtocolError, UnicodeDecodeError):
        assert found
        assert isinstance(found[0], Breach)
        return
    except PayloadTooBig:  # its bound is the smaller one; ours waits for the rest
        return
    if theirs is None:
        assert found == [] or isinstance(found[0], Breach)


@settings(max_examples=300)
@given(
    messages=st.lists(st.tuples(st.sampled_from([2, 9]), st.binary(max_size=125)), max_size=8),
    cuts=st.lists(st.integers(1, 50), min_size=1),
)
def test_the_cuts_of_the_stream_do_not_matter(messages: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(server_frame(*message) for message in messages)
    reader, found, start = FrameReader(), [], 0
    for index in range(len(data)):
        end = start + cuts[index % len(cuts)]
        found += reader.feed(data[start:end])
        start = end
    assert found == [Ping(payload) if opcode == 9 else Binary(payload) for opcode, payload in messages]
