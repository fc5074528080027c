"""What the server says on one connection, bent by its script, as bytes with a time.  No sockets.

`Responder.say(responses, now)` turns responses into WebSocket frames and queues them, late, twice, swapped or
odd as the script has it; `Responder.take(now)` gives the bytes that are due, and records them.  While acks are
held (`hold`), nothing that `say` was given comes out; control frames by `send` do.  `Responder.close(frame, now)`
is the last word: what waits goes before it, nothing behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from spoolq import limits
from spoolq.qwp.inbound import unmask
from spoolq.qwp.layout import Status
from spoolq.qwp.responses import DurableAck, ErrorFrame, Ok, Response, build
from spoolq.server import frames
from spoolq.server.record import ConnectionRecord
from spoolq.server.script import Answer, AnswerKind, Script

_SWAP_MILLIS: Final = 20  # how long the first OK of a pair waits for the second
_HUGE_NBYTES: Final = 16 << 20
_MASK: Final = b"\x11\x22\x33\x44"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Bytes for the socket; ``payloads``: of the whole binary frames among them."""

    data: bytes
    payloads: tuple[bytes, ...] = ()


class Responder:
    """The outgoing side of a connection.  ``ends`` becomes True when a half answer was sent: nothing follows."""

    def __init__(self, script: Script, record: ConnectionRecord) -> None:
        self._script = script
        self._record = record
        self._queue: deque[tuple[int, Outgoing]] = deque()  # (due, frame); the first one holds up the others
        self._held: list[Outgoing] = []
        self._kept_back: Ok | None = None  # the first of a swapped pair
        self._kept_due_millis = 0
        self._answers = sorted(script.answers, key=lambda answer: answer.frame)
        self._stepped = -1
        self._unsaid: dict[str, int] = {}  # entries of OKs that `ack_every` left out
        self._drip = bytearray()
        self._drip_due_millis = 0
        self._is_closed = False  # a CLOSE is the last frame (RFC 6455, 5.5.1)
        self.hold = False
        self.ends = False

    def say(self, responses: Iterable[Response], now_millis: int) -> None:
        """Responses of the processor."""
        for response in responses:
            if self.ends or self._is_closed:
                return
            found = self._bent(response)
            if self._kept_back is not None and not isinstance(response, Ok):
                found = [*self._lone(), *found]  # an error stays behind the OKs before it
            for frame in found:
                if self.hold:
                    self._held.append(frame)
                else:
                    self._put(frame, now_millis + self._script.ack_delay_millis)
            if self._kept_back is not None:
                self._kept_due_millis = now_millis + _SWAP_MILLIS

    def release(self, now_millis: int) -> None:
        """Held responses go out."""
        self.hold = False
        for frame in self._held if not self._is_closed else ():
            self._put(frame, now_millis)
        self._held.clear()

    def send(self, frame: bytes, now_millis: int) -> None:
        """A control frame, behind what is queued only if that is due."""
        if self.ends or self._is_closed:
            return
        if self._queue and self._queue[0][0] > now_millis:
            self._queue.appendleft((now_millis, Outgoing(frame)))
        else:
            self._put(Outgoing(frame), now_millis)

    def close(self, frame: bytes, now_millis: int) -> None:
        """A CLOSE frame, behind everything that waits, late things too; what is held does not come any more."""
        if self.ends or self._is_closed:
            return
        if self._kept_back is not None and not self.hold:
            self._put_lone(now_millis)
        self._put(Outgoing(frame), now_millis)
        self._is_closed, self._kept_back = True, None

    def discard(self) -> None:
        """What waits is never sent."""
        self._queue.clear()
        self._held.clear()
        self._drip.clear()
        self._kept_back = None

    def _put(self, frame: Outgoing, due_millis: int) -> None:
        self._queue.append((due_millis, frame))

    def _put_lone(self, now_millis: int) -> None:
        for frame in self._lone():
            self._put(frame, now_millis + self._script.ack_delay_millis)

    def _bent(self, response: Response) -> list[Outgoing]:
        """The frames that stand for a response in this script."""
        match response:
            case Ok():
                return [] if self._script.no_ack else self._bent_ok(response)
            case DurableAck():
                if self._script.no_ack or self._script.no_durable_ack:
                    return []
            case ErrorFrame():
                pass
        return [_binary(build(response))]

    def _bent_ok(self, ok: Ok) -> list[Outgoing]:
        script = self._script
        if self._answers and self._answers[0].frame <= ok.sequence:
            return [self._odd(self._answers.pop(0), ok)]
        if script.ack_every > 1:
            step = (ok.sequence + 1) // script.ack_every * script.ack_every - 1
            self._unsaid.update(ok.entries)
            if step <= self._stepped:
                return []
            self._stepped, ok = step, Ok(step, tuple(self._unsaid.items()))
            self._unsaid.clear()
        if script.ack_ahead:
            ok = Ok(ok.sequence + script.ack_ahead, ok.entries)
        if script.ack_negative:
            ok = Ok(-1, ok.entries)
        found = [ok]
        if script.ack_swapped:
            if self._kept_back is None:
                self._kept_back = ok
                return []
            found, self._kept_back = [ok, self._kept_back], None
        return [_binary(build(one)) for one in found for _ in range(1 + script.ack_twice)]

    def _lone(self) -> list[Outgoing]:
        """The OK of a pair that did not become one."""
        assert self._kept_back is not None
        ok, self._kept_back = self._kept_back, None
        return [_binary(build(ok)) for _ in range(1 + self._script.ack_twice)]

    def _odd(self, answer: Answer, ok: Ok) -> Outgoing:
        if answer.kind == "half":
            self.ends, self._kept_back = True, None
            whole = frames.build(frames.BINARY, build(ok))
            return Outgoing(whole[: len(whole) // 2])
        return odd_frame(answer.kind, build(Ok(ok.sequence)))

    @property
    def due_millis(self) -> int | None:
        """When `take` will have something, None for never."""
        if self._drip:
            return self._drip_due_millis
        due = [self._queue[0][0]] if self._queue else []
        if self._kept_back is not None and not self.hold:
            due.append(self._kept_due_millis)
        return min(due, default=None)

    def take(self, now_millis: int) -> bytes:
        """What is due now."""
        if self._kept_back is not None and self._kept_due_millis <= now_millis and not self.hold:
            self._put_lone(now_millis)
        due = []
        while self._queue and self._queue[0][0] <= now_millis:
            frame = self._queue.popleft()[1]
            for payload in frame.payloads:
                self._record.keep_response(payload)
            due.append(frame.data)
        if not self._script.trickle_millis:
            return b"".join(due)
        if not self._drip:
            self._drip_due_millis = max(self._drip_due_millis, now_millis)
        self._drip += b"".join(due)
        if not self._drip or now_millis < self._drip_due_millis:
            return b""
        self._drip_due_millis = now_millis + self._script.trickle_millis
        first = bytes(self._drip[:1])
        del self._drip[:1]
        return first


def _binary(payload: bytes) -> Outgoing:
    return Outgoing(frames.build(frames.BINARY, payload), (payload,))


def odd_frame(kind: AnswerKind, payload: bytes) -> Outgoing:
    """A response as `Answer` describes it."""
    first = frames.FIN | frames.BINARY
    match kind:
        case "garbage":
            return _binary(b"\xff")
        case "empty":
            return _binary(b"")
        case "trailing":
            return _binary(payload + b"\0")
        case "text":
            return Outgoing(frames.build(frames.TEXT, payload))
        case "masked":
            data = bytes((first, frames.MASKED | len(payload))) + _MASK + unmask(payload, _MASK)
            return Outgoing(data, (payload,))
        case "fragmented":
            middle = len(payload) // 2
            data = (
                bytes((frames.BINARY, middle))
                + payload[:middle]
                + bytes((frames.FIN | frames.CONTINUATION, len(payload) - middle))
                + payload[middle:]
            )
            return Outgoing(data, (payload,))
        case "durable":
            unasked = _binary(build(DurableAck((("t", 1),))))
            return Outgoing(unasked.data + _binary(payload).data, (*unasked.payloads, payload))
        case "close_1":
            return Outgoing(frames.build(frames.CLOSE, b"x"))
        case "rsv":
            return Outgoing(bytes((first | 0x40, len(payload))) + payload, (payload,))
        case "non_minimal":
            return Outgoing(bytes((first, 126)) + len(payload).to_bytes(2, "big") + payload, (payload,))
        case "long_text":
            text = b"x" * (limits.ERROR_TEXT_BYTES_MAX + 1)
            return _binary(bytes((Status.INTERNAL_ERROR,)) + bytes(8) + len(text).to_bytes(2, "little") + text)
        case "huge":
            return _binary(bytes(_HUGE_NBYTES))
    raise AssertionError(kind)
