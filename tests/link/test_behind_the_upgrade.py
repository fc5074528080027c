"""Bytes that come in one piece with the 101 show in no select, and are acted on all the same."""

from __future__ import annotations

import socket
import threading

from spoolq import Sender
from tests.link.peer import Peer, accepted, request, wait_for_end


def test_29b_a_close_in_one_piece_with_the_answer_is_seen_at_once() -> None:
    again = threading.Event()
    heads: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        heads.append(request(sock))
        if len(heads) == 1:
            sock.sendall(accepted(heads[0]) + b"\x88\x02\x03\xe9")
        else:
            sock.sendall(accepted(heads[-1]))
            again.set()
        wait_for_end(sock)

    with Peer(talk) as peer, Sender.from_conf(f"ws::addr={peer.endpoint};close_flush_timeout_millis=0;"):
        assert again.wait(10), "the CLOSE behind the 101 was not seen"
