"""Each fault of a `Script`, as a client sees it; the same through JSON."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.errors import ConfigError
from spoolq.server import (
    Answer,
    Close,
    Drop,
    MemoryStore,
    QwpServer,
    Refuse,
    Reject,
    Script,
    ServerOptions,
    from_json,
    random_scripts,
    to_json,
)
from spoolq.server.connection import Connection, Controls
from spoolq.server.record import Budget, ConnectionRecord

from .raw_client import BINARY, DEFER, DELTA, Ended, RawClient, error_of, frame, good_headers, ok, one_row
from .test_acks import durable

REQUEST = ("\r\n".join(["GET /write/v4 HTTP/1.1", *(f"{k}: {v}" for k, v in good_headers().items()), "", ""])).encode()


class Machine:
    """A connection without a socket, its clock in the test's hand."""

    def __init__(self, script: Script, **options: Any) -> None:
        self.now = 1_000
        self.record = ConnectionRecord(0, Budget(1 << 20))
        self.controls = Controls()
        self.connection = Connection(
            ServerOptions(**options),
            MemoryStore(),
            script,
            self.record,
            self.controls,
            lambda _: None,
            lambda: 0,
            self.now,
        )

    def upgraded(self) -> Machine:
        assert self.put(REQUEST).startswith(b"HTTP/1.1 101 ")
        return self

    def put(self, data: bytes) -> bytes:
        self.connection.receive(data, self.now)
        return self.connection.take_output(self.now)

    def at(self, now: int) -> bytes:
        self.now = now
        self.connection.tick(now)
        return self.connection.take_output(now)


def data(count: int = 1) -> bytes:
    return b"".join(frame(BINARY, one_row(value=n)) for n in range(count))


def ok_frame(sequence: int, *entries: tuple[str, int]) -> bytes:
    payload = ok(sequence, *entries)
    return bytes((0x82, len(payload))) + payload


class TestUpgrade:
    @pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 421, 426, 500, 503, 799])
    def test_refusals(self, status: int) -> None:
        script = Script(
            refuse=Refuse(status, role="REPLICA", retry_after_seconds=3, body="späť", headers=(("A", "b"),))
        )
        with QwpServer(script=script) as server, RawClient(server.port) as client:
            client.request()
            found, headers = client.response()
            assert found == status
            assert (headers["x-questdb-role"], headers["retry-after"], headers["a"]) == ("REPLICA", "3", "b")
            assert client.read_to_end().decode() == "späť"

    def test_silence(self) -> None:
        with QwpServer(script=Script(silent=True)) as server, RawClient(server.port) as client:
            client.request()
            server.wait_for(lambda: server.connections[0].target)
            assert server.drop_connections() == 1
            client.expect_end()

    def test_the_end_in_the_middle_of_a_refusal(self) -> None:
        script = Script(refuse=Refuse(503, body="not now"), upgrade_nbytes_max=20)
        with QwpServer(script=script) as server, RawClient(server.port) as client:
            client.request()
            assert client.read_to_end() == b"HTTP/1.1 503 Service"
            assert server.connections[0].closed_by == "server_drop"

    def test_something_else_than_http(self) -> None:
        with QwpServer(script=Script(upgrade_raw="SSH-2.0-x\r\n")) as server, RawClient(server.port) as client:
            client.request()
            assert client.read(11) == b"SSH-2.0-x\r\n"

    @pytest.mark.parametrize("nbytes", [0, 1, 20, 100])
    def test_the_end_in_the_middle_of_the_answer(self, nbytes: int) -> None:
        with QwpServer(script=Script(upgrade_nbytes_max=nbytes)) as server, RawClient(server.port) as client:
            client.request()
            found = client.read_to_end()
            assert len(found) == nbytes
            assert b"HTTP/1.1 101 Switching Protocols\r\n".startswith(found[:34])
            assert server.connections[0].closed_by == "server_drop"

    def test_other_headers(self) -> None:
        changes = (("Sec-WebSocket-Accept", "wrong"), ("x-qwp-version", "2"), ("X-QuestDB-Role", None), ("New", "1"))
        with QwpServer(script=Script(upgrade_headers=changes)) as server, RawClient(server.port) as client:
            client.request()
            status, headers = client.response()
        assert status == 101
        assert headers["sec-websocket-accept"] == "wrong"
        assert headers["x-qwp-version"] == "2"
        assert headers["new"] == "1"
        assert "x-questdb-role" not in headers

    def test_a_durable_ack_that_is_asked_for_and_not_granted(self) -> None:
        script = Script(upgrade_headers=(("X-QWP-Durable-Ack", None),))
        with QwpServer(script=script, durable_ack=True) as server, RawClient(server.port) as client:
            assert "x-qwp-durable-ack" not in client.upgrade(X_QWP_Request_Durable_Ack="true")

    def test_a_smaller_cap_is_told_and_held_to(self) -> None:
        with QwpServer(script=Script(cap_nbytes=60)) as server, RawClient(server.port) as client:
            assert client.upgrade()["x-qwp-max-batch-size"] == "60"
            client.message(one_row())
            assert client.answer() == ok(0, ("t", 1))
            client.send(frame(BINARY, bytes(61), length_form=64))
            assert client.close_code() == 1009


class TestAcks:
    def test_late(self) -> None:
        machine = Machine(Script(ack_delay_millis=50, reject=(Reject(2),))).upgraded()
        assert machine.put(data(1)) == b""
        assert machine.at(1_020) == b""
        assert machine.put(data(2)) == b""
        assert machine.connection.deadline_millis == 1_050
        assert machine.at(1_050) == ok_frame(0, ("t", 1))
        late = machine.at(1_070)
        assert late.startswith(ok_frame(1, ("t", 2)))
        assert error_of(late[len(ok_frame(1, ("t", 2))) + 2 :]) == (0x06, 2, "rejected by script")

    def test_a_pong_is_not_late(self) -> None:
        machine = Machine(Script(ack_delay_millis=50)).upgraded()
        assert machine.put(data(1) + frame(9, b"x")) == b"\x8a\x01x"

    def test_never(self) -> None:
        with QwpServer(script=Script(no_ack=True), durable_ack=True) as server, RawClient(server.port) as client:
            client.upgrade(X_QWP_Request_Durable_Ack="true")
            client.send(data(20))
            assert client.ping() == []
            assert server.store.count("t") == 20

    def test_in_steps(self) -> None:
        machine = Machine(Script(ack_every=3)).upgraded()
        found = [machine.put(data(1)) for _ in range(7)]
        assert [len(answer) > 0 for answer in found] == [False, False, True, False, False, True, False]
        assert found[5][2:11] == ok(5)[:9]

    def test_beyond_what_was_sent(self) -> None:
        assert Machine(Script(ack_ahead=100)).upgraded().put(data(2)) == ok_frame(101, ("t", 2))

    def test_twice(self) -> None:
        assert Machine(Script(ack_twice=True)).upgraded().put(data(1)) == 2 * ok_frame(0, ("t", 1))

    def test_out_of_order(self) -> None:
        machine = Machine(Script(ack_swapped=True)).upgraded()
        found = [machine.put(data(1)) for _ in range(4)]
        assert found == [
            b"",
            ok_frame(1, ("t", 2)) + ok_frame(0, ("t", 1)),
            b"",
            ok_frame(3, ("t", 4)) + ok_frame(2, ("t", 3)),
        ]

    def test_out_of_order_a_lone_one_goes_after_a_while_or_before_an_error(self) -> None:
        machine = Machine(Script(ack_swapped=True, reject=(Reject(2),))).upgraded()
        assert machine.put(data(1)) == b""
        assert machine.connection.deadline_millis == 1_020
        assert machine.at(1_019) == b""
        assert machine.at(1_020) == ok_frame(0, ("t", 1))
        assert machine.put(data(1)) == b""
        found = machine.put(data(1))
        assert found.startswith(ok_frame(1, ("t", 2)))
        assert error_of(found[len(ok_frame(1, ("t", 2))) + 2 :])[:2] == (0x06, 2)

    def test_out_of_order_and_late(self) -> None:
        machine = Machine(Script(ack_swapped=True, ack_delay_millis=50)).upgraded()
        assert machine.put(data(1)) == b""
        assert machine.at(1_020) == b""
        assert machine.at(1_069) == b""
        assert machine.at(1_070) == ok_frame(0, ("t", 1))

    def test_in_steps_a_step_tells_of_the_tables_of_all_its_frames(self) -> None:
        machine = Machine(Script(ack_every=2)).upgraded()
        assert machine.put(frame(BINARY, one_row("a"))) == b""
        assert machine.put(frame(BINARY, one_row("b"))) == ok_frame(1, ("a", 1), ("b", 1))
        assert machine.put(frame(BINARY, one_row("b"))) == b""
        assert machine.put(frame(BINARY, one_row("b"))) == ok_frame(3, ("b", 3))

    def test_negative(self) -> None:
        assert Machine(Script(ack_negative=True)).upgraded().put(data(1)) == ok_frame(-1, ("t", 1))

    def test_no_durable_ack(self) -> None:
        script = Script(no_durable_ack=True)
        with QwpServer(script=script, durable_ack=True) as server, RawClient(server.port) as client:
            assert client.upgrade(X_QWP_Request_Durable_Ack="true")["x-qwp-durable-ack"] == "enabled"
            client.send(data(1))
            assert client.answer() == ok(0, ("t", 1))
            assert client.ping() == []


def test_what_is_due_goes_out_before_the_close_of_the_program() -> None:
    machine = Machine(Script(), durable_ack=True, durable_ack_delay_millis=30)
    asking = REQUEST[:-2] + b"X-QWP-Request-Durable-Ack: true\r\n\r\n"
    assert b"X-QWP-Durable-Ack: enabled" in machine.put(asking)
    assert machine.put(data(1)) == ok_frame(0, ("t", 1))
    machine.connection.close(1000, "", 1_030)
    assert machine.connection.take_output(1_030) == b"\x82\x0e" + durable(("t", 1)) + b"\x88\x02\x03\xe8"


CLOSED = b"\x88\x02\x03\xe8"
CLIENT_CLOSE = frame(8, struct.pack(">H", 1000))


@pytest.mark.parametrize("acks", [{"ack_delay_millis": 50}, {"ack_swapped": True}])
@pytest.mark.parametrize("by_client", [False, True])
def test_what_comes_late_goes_before_a_close_and_nothing_behind_it(acks: dict[str, Any], by_client: bool) -> None:
    machine = Machine(Script(**acks) if by_client else Script(**acks, close=Close(1))).upgraded()
    found = machine.put(data(1) + (CLIENT_CLOSE if by_client else b""))
    assert found + machine.at(1_050) == ok_frame(0, ("t", 1)) + CLOSED
    machine.connection.release(1_050)
    assert machine.at(2_000) == b""


def test_what_is_held_does_not_come_behind_a_close() -> None:
    machine = Machine(Script()).upgraded()
    machine.controls.acks_held = True
    assert machine.put(data(1) + CLIENT_CLOSE) == CLOSED
    machine.controls.acks_held = False
    machine.connection.release(1_000)
    assert machine.at(2_000) == b""


def test_an_error_beyond_what_was_sent() -> None:
    found = Machine(Script(reject=(Reject(1, 0x03, "no", ahead=7),))).upgraded().put(data(2))
    assert found.startswith(ok_frame(0, ("t", 1)))
    assert error_of(found[len(ok_frame(0, ("t", 1))) + 2 :]) == (0x03, 8, "no")


class TestAnswers:
    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("garbage", b"\x82\x01\xff"),
            ("empty", b"\x82\x00"),
            ("trailing", b"\x82\x0c" + ok(2) + b"\0"),
            ("text", b"\x81\x0b" + ok(2)),
            ("fragmented", b"\x02\x05" + ok(2)[:5] + b"\x80\x06" + ok(2)[5:]),
            ("rsv", b"\xc2\x0b" + ok(2)),
            ("non_minimal", b"\x82\x7e\x00\x0b" + ok(2)),
            ("durable", b"\x82\x0e" + durable(("t", 1)) + b"\x82\x0b" + ok(2)),
            ("close_1", b"\x88\x01x"),
        ],
    )
    def test_odd_responses(self, kind: Any, expected: bytes) -> None:
        machine = Machine(Script(answers=(Answer(2, kind),))).upgraded()
        assert machine.put(data(2)) == ok_frame(1, ("t", 2))
        assert machine.put(data(1)) == expected
        assert machine.put(data(1)) == ok_frame(3, ("t", 4))

    @pytest.mark.parametrize(
        ("kind", "payloads"),
        [
            ("garbage", [b"\xff"]),
            ("empty", [b""]),
            ("trailing", [ok(0) + b"\0"]),
            ("text", []),
            ("masked", [ok(0)]),
            ("fragmented", [ok(0)]),
            ("rsv", [ok(0)]),
            ("non_minimal", [ok(0)]),
            ("durable", [durable(("t", 1)), ok(0)]),
            ("close_1", []),
            ("half", []),
            ("long_text", [b"\x06" + bytes(8) + struct.pack("<H", 1_025) + b"x" * 1_025]),
        ],
    )
    def test_odd_responses_are_recorded_when_they_are_whole_binary_frames(
        self, kind: Any, payloads: list[bytes]
    ) -> None:
        machine = Machine(Script(answers=(Answer(0, kind),), ack_delay_millis=20)).upgraded()
        machine.put(data(1))
        assert machine.record.responses == []  # not sent yet
        machine.at(1_020)
        assert machine.record.responses == payloads

    def test_masked(self) -> None:
        found = Machine(Script(answers=(Answer(0, "masked"),))).upgraded().put(data(1))
        assert found[:2] == b"\x82\x8b"
        assert bytes(byte ^ found[2 + n % 4] for n, byte in enumerate(found[6:])) == ok(0)

    def test_16_mebibytes(self) -> None:
        with QwpServer(script=Script(answers=(Answer(0, "huge"),))) as server, RawClient(server.port) as client:
            client.upgrade()
            client.send(data(1))
            assert client.answer() == bytes(16 << 20)
            client.send(data(1))
            assert client.answer() == ok(1, ("t", 2))

    def test_a_text_that_is_too_long(self) -> None:
        with QwpServer(script=Script(answers=(Answer(0, "long_text"),))) as server, RawClient(server.port) as client:
            client.upgrade()
            client.send(data(1))
            assert error_of(client.answer()) == (0x06, 0, "x" * 1_025)

    def test_half_an_answer(self) -> None:
        with QwpServer(script=Script(answers=(Answer(0, "half"),))) as server, RawClient(server.port) as client:
            client.upgrade()
            client.send(data(1))
            whole = ok_frame(0, ("t", 1))
            assert client.read_to_end() == whole[: len(whole) // 2]

    def test_nothing_follows_half_an_answer_that_is_late(self) -> None:
        machine = Machine(Script(answers=(Answer(0, "half"),), ack_delay_millis=20)).upgraded()
        for sequence in range(3):
            assert machine.put(data(sequence + 1)) == b""
        assert machine.put(frame(0x9, b"ping")) == b""
        whole = ok_frame(0, ("t", 1))
        assert machine.at(2_000) == whole[: len(whole) // 2]

    def test_a_byte_at_a_time(self) -> None:
        machine = Machine(Script(trickle_millis=1_000)).upgraded()
        assert machine.put(data(1)) == b"\x82"
        assert machine.at(1_999) == b""
        assert machine.at(2_000) == bytes((len(ok(0, ("t", 1))),))
        found = b"".join(machine.at(now) for now in range(3_000, 40_000, 500))
        assert b"\x82" + bytes((len(found),)) + found == ok_frame(0, ("t", 1))


class TestEnds:
    @pytest.mark.parametrize("reset", [False, True])
    @pytest.mark.parametrize("before_ack", [False, True])
    def test_drop_after_frames(self, before_ack: bool, reset: bool) -> None:
        script = Script(drop=Drop(after_frames=2, before_ack=before_ack, reset=reset))
        with QwpServer(script=script) as server, RawClient(server.port) as client:
            client.upgrade()
            client.send(data(1))
            assert client.answer() == ok(0, ("t", 1))
            client.send(data(2))
            found = client.read_to_end()
            assert found in (
                (b"",) if before_ack else (ok_frame(1, ("t", 2)), b"") if reset else (ok_frame(1, ("t", 2)),)
            )
            assert server.store.count("t") == 2
            assert server.connections[0].closed_by == "server_drop"

    @pytest.mark.parametrize("frames", [8, 2], ids=["the eighth frame", "the end of a group"])
    def test_a_drop_before_the_ack_is_one_where_the_ack_is_due_at_once(self, frames: int) -> None:
        sent = data(8) if frames == 8 else frame(BINARY, one_row(flags=DELTA | DEFER)) + data(1)
        machine = Machine(Script(drop=Drop(after_frames=frames, before_ack=True))).upgraded()
        assert machine.put(sent) == b""
        assert machine.connection.has_ended
        assert machine.record.row_count == frames
        assert machine.record.responses == []

    def test_drop_behind_no_byte_at_all(self) -> None:
        with QwpServer(script=Script(drop=Drop(after_nbytes=0))) as server, RawClient(server.port) as client:
            client.upgrade()
            client.expect_end()

    def test_a_reset_is_one(self) -> None:
        script = Script(drop=Drop(after_frames=1, before_ack=True, reset=True))
        with QwpServer(script=script) as server, RawClient(server.port) as client:
            client.upgrade()
            client.send(data(1))
            with pytest.raises(Ended, match="RST"):
                client.read(1)

    def test_drop_right_behind_the_upgrade(self) -> None:
        with QwpServer(script=Script(drop=Drop(after_frames=0))) as server, RawClient(server.port) as client:
            client.upgrade()
            client.expect_end()

    def test_drop_after_bytes(self) -> None:
        size = len(data(1))
        for nbytes, rows in ((1, 0), (size - 1, 0), (size, 1), (size + 3, 1)):
            with QwpServer(script=Script(drop=Drop(after_nbytes=nbytes))) as server, RawClient(server.port) as client:
                client.upgrade()
                client.send(data(3))
                assert client.read_to_end() == (ok_frame(0, ("t", 1)) if rows else b"")
                assert server.store.count("t") == rows

    @pytest.mark.parametrize("cut", [False, True])
    def test_drop_in_the_middle_of_a_frame(self, cut: bool) -> None:
        sent = data(3)[:-1] if cut else data(3)
        with QwpServer(script=Script(drop=Drop(mid_frame=2))) as server, RawClient(server.port) as client:
            client.upgrade()
            client.send(sent)
            assert client.read_to_end() in (ok_frame(1, ("t", 2)), b"")
            assert server.store.count("t") == 2

    @pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1005, 1008, 1009, 1011, 4000, None])
    def test_close(self, code: int | None) -> None:
        with QwpServer(script=Script(close=Close(2, code, "why"))) as server, RawClient(server.port) as client:
            client.upgrade()
            client.send(data(5))
            assert client.answer() == ok(1, ("t", 2))
            assert client.frame() == (8, b"" if code is None else struct.pack(">H", code) + b"why")
            client.expect_end()
            assert server.store.count("t") == 2


FULL = Script(
    refuse=Refuse(421, "REPLICA", 3, "no", (("A", "b"),)),
    silent=True,
    upgrade_raw="x",
    upgrade_headers=(("A", None), ("B", "c")),
    upgrade_nbytes_max=3,
    cap_nbytes=100,
    no_ack=True,
    ack_delay_millis=1,
    ack_every=2,
    ack_ahead=3,
    ack_twice=True,
    ack_swapped=True,
    ack_negative=True,
    no_durable_ack=True,
    reject=(Reject(1, 3, "x"), Reject(2)),
    answers=(Answer(1, "huge"),),
    drop=Drop(after_nbytes=5, before_ack=True, reset=True),
    close=Close(3, None, "y"),
    trickle_millis=7,
)


def test_json_and_back() -> None:
    scripts = (FULL, Script(), Script(drop=Drop(mid_frame=0)))
    assert from_json(to_json(scripts)) == scripts
    assert from_json("{}") == (Script(),)


@given(st.integers(0, 1 << 30))
def test_random_scripts_repeat_by_seed_and_end_honestly(seed: int) -> None:
    scripts = random_scripts(seed, 5)
    assert scripts == random_scripts(seed, 5)
    assert len(scripts) == 6
    assert scripts[-1] == Script()
    assert from_json(to_json(scripts)) == scripts


WRONG = {
    "a number for an object": ('[{"refuse": 3}]', r"script\[0\]\.refuse takes an object"),
    "a text for a list": ('[{}, {"reject": "x"}]', r"script\[1\]\.reject takes a list"),
    "a pair of three": ('[{"upgrade_headers": [["a", "b", "c"]]}]', "list of 2"),
    "true for a number": ('[{"ack_ahead": true}]', "ack_ahead is True; it takes int"),
    "two ends of a drop": ('[{"drop": {"after_frames": 1, "mid_frame": 2}}]', r"script\[0\]\.drop: .* exactly one"),
    "no end of a drop": ('[{}, {"drop": {}}]', r"script\[1\]\.drop: .* exactly one"),
    "steps of nothing": ('[{"ack_every": 0}]', r"script\[0\]: ack_every is 0; it takes 1 or more"),
    "a frame below 0": ('[{"reject": [{"frame": -1}]}]', r"script\[0\]\.reject\[0\]: frame is -1"),
    "a status that is no byte": ('[{"reject": [{"frame": 0, "status": 300}]}]', "status is 300; it takes 1 to 255"),
    "a status that is no error": ('[{"reject": [{"frame": 0, "status": 2}]}]', "no error"),
    "an error far beyond": ('[{"reject": [{"frame": 0, "ahead": 9223372036854775807}]}]', "ahead is"),
    "a frame twice": ('[{"reject": [{"frame": 0}, {"frame": 0, "status": 3}]}]', r"script\[0\]: .* twice"),
    "a refusal that is none": ('[{"refuse": {"status": 101}}]', r"script\[0\]\.refuse: status is 101"),
    "a hint in the past": ('[{"refuse": {"status": 503, "retry_after_seconds": -1}}]', "retry_after_seconds is -1"),
    "a code that does not fit": ('[{"close": {"after_frames": 0, "code": 70000}}]', "code is 70000"),
    "a close that never comes": ('[{"close": {"after_frames": -1}}]', r"close: after_frames is -1"),
    "a drop that never comes": ('[{"drop": {"mid_frame": -1}}]', r"drop: mid_frame is -1"),
    "an answer that never comes": ('[{"answers": [{"frame": -1, "kind": "huge"}]}]', r"answers\[0\]: frame is -1"),
    "early acks": ('[{"ack_delay_millis": -1}]', "ack_delay_millis is -1"),
    "a sequence that does not fit": ('[{"ack_ahead": 9223372036854775807}]', "ack_ahead is"),
    "less than nothing of the answer": ('[{"upgrade_nbytes_max": -1}]', "upgrade_nbytes_max is -1"),
    "less than no cap": ('[{"cap_nbytes": -1}]', "cap_nbytes is -1"),
    "what is no byte": ('[{"upgrade_raw": "\u20ac"}]', "upgrade_raw has '\u20ac'"),
    "a name twice": ('[{"no_ack": true, "no_ack": false}]', "'no_ack' twice"),
    "not an object": ("[3]", r"script\[0\] takes an object"),
}


def test_an_answer_of_no_kind() -> None:
    wrong: Any = "nonsense"
    with pytest.raises(ConfigError, match="'nonsense'; it takes one of garbage"):
        Answer(0, wrong)


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_script_names_the_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_json(text)
