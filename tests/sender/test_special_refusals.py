"""The special cases of behaviour.md 6.5 with a sender and the strict server: PSN-04, PSN-05, and what is terminal."""

from __future__ import annotations

from contextlib import suppress

import pytest

from spoolq.errors import ServerRejection
from spoolq.qwp.decode import Dictionary, decode
from spoolq.testing import Close, QwpServer, Reject, Script

from .harness import Recorder, frames, numbers, open_sender, publish

IMPATIENT = "max_frame_rejections=1;poison_min_escalation_window_millis=0;"


def test_psn_05_after_a_dictionary_gap_every_symbol_is_registered_again_from_id_0() -> None:
    handler = Recorder()
    with QwpServer(script=[Script(reject=(Reject(2, 0x0D, "gap"),)), Script()]) as server:
        with open_sender(server, handler=handler) as sender:
            for number in range(4):
                publish(sender, number)
            sender.wait()
            event = handler.wait_for()  # close gives it 0.2 s
        assert numbers(server) == [0, 1, 2, 3]
        assert (event.category, event.policy, event.from_fsn) == ("dictionary_gap", "retriable", 2)
        first = decode(server.connections[1].messages[0], Dictionary())
        assert (first.delta_start, first.tables) == (0, [])
        assert first.symbols[:3] == ["sym-0", "sym-1", "sym-2"]
        assert frames(server)[1] == [2, 3]


def test_psn_04_not_writable_is_no_strike_and_leads_to_another_endpoint() -> None:
    handler = Recorder()
    refusing = Script(reject=(Reject(0, 0x0C, "read only"),))
    with QwpServer(script=refusing) as one, QwpServer() as two:
        conf = f"ws::addr=127.0.0.1:{one.port},127.0.0.1:{two.port};"
        with open_sender(conf, IMPATIENT, handler=handler) as sender:
            publish(sender, 0)
            sender.wait()
            assert handler.wait_for().policy == "retriable_other"
        assert (numbers(one), numbers(two)) == ([], [0])


def test_psn_04_not_writable_for_a_long_time_never_ends_the_sender() -> None:
    refusing = Script(reject=(Reject(0, 0x0C, "read only"),))
    with QwpServer(script=[*[refusing] * 6, Script()]) as server:
        with open_sender(server, IMPATIENT) as sender:
            publish(sender, 0)
            sender.wait()
        assert numbers(server) == [0]
        assert len(server.connections) == 7


def test_6_5_d_a_1009_for_a_frame_within_the_cap_is_a_strike() -> None:
    closing = Script(no_ack=True, close=Close(1, 1009, "too big"))
    with QwpServer(script=closing) as server:
        sender = open_sender(server, "max_frame_rejections=2;poison_min_escalation_window_millis=0;")
        with suppress(ServerRejection):  # it may be here before the call is over
            publish(sender, 0)
        with pytest.raises(ServerRejection, match=r"FSN 0 failed 2 times.*1009: too big"):
            sender.wait()
        with pytest.raises(ServerRejection):
            sender.close()
        assert len(server.connections) == 2


def test_6_5_e_a_rejection_that_skips_frames_is_terminal_and_settles_nothing() -> None:
    with QwpServer(script=Script(no_ack=True, reject=(Reject(2, 6, "why"),))) as server:
        sender = open_sender(server)
        server.hold_acks()  # the refusal may else be here before the last call is over
        for number in range(3):
            publish(sender, number)
        server.release_acks()
        with pytest.raises(ServerRejection, match="FSN 2 but never answered for FSN 0 to 1") as caught:
            sender.wait()
        assert (caught.value.category, caught.value.from_fsn, caught.value.to_fsn) == ("protocol_violation", 0, 2)
        assert sender.acked_fsn() is None
        with pytest.raises(ServerRejection):
            sender.close()
