"""One connection as a state machine: bytes in, bytes out, time as an argument.  No sockets, no threads.

    receive(data, now)      bytes of the client
    end_of_stream()         the client's FIN
    tick(now)               `deadline_millis` has passed
    release(now)            held acks go out
    take_output(now)        bytes for the client; call it after each of the above
    ending                  how the connection ends once the output is written; None while it goes on
    query                   a request for the HTTP side that takes its time; `answer_query` ends it
    lost(by)                the socket is gone

States: HEAD (the request), OPEN (WebSocket), QUERY (the HTTP side is at work), SILENT (a script wants no
answer), OVER (what still comes is not looked at).  Owned by the loop; never raises for what a client does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from spoolq.qwp import upgrade
from spoolq.qwp.layout import Status
from spoolq.qwp.upgrade import Refusal
from spoolq.server import frames, handshake
from spoolq.server.frames import FrameFault, FrameReader
from spoolq.server.handshake import BadRequest, Request, RequestReader
from spoolq.server.options import FRAME_HEADER_BYTES_MAX, ServerOptions
from spoolq.server.processor import Forbid, Processor
from spoolq.server.record import ConnectionRecord
from spoolq.server.responder import Responder
from spoolq.server.script import Script
from spoolq.server.store import Store


class Ending(Enum):
    """What happens to the socket when the output is written."""

    CLOSE = auto()  # FIN at once
    RESET = auto()  # RST at once
    LINGER = auto()  # half-close, drain what the client still sends for a moment, close


class _State(Enum):
    HEAD = auto()
    OPEN = auto()
    QUERY = auto()
    SILENT = auto()
    OVER = auto()


@dataclass(slots=True)
class Controls:
    """What the program changes while connections are open; read by all of them."""

    acks_held: bool = False
    refusal: Refusal | None = None
    role: str | None = None  # in place of the option's
    forbidden: tuple[int, str] | None = None  # answer to each block


# A request that is not an upgrade -> its whole response, or None when it must be worked on elsewhere.
Http = Callable[[Request], bytes | None]


class Connection:
    """See the module; ``wall_nanos`` is the clock for rows without a timestamp."""

    def __init__(
        self,
        options: ServerOptions,
        store: Store,
        script: Script,
        record: ConnectionRecord,
        controls: Controls,
        http: Http,
        wall_nanos: Callable[[], int],
        now_millis: int,
    ) -> None:
        self._options = options
        self._store = store
        self._script = script
        self._record = record
        self._controls = controls
        self._http = http
        self._wall_nanos = wall_nanos
        self._state = _State.HEAD
        self._requests = RequestReader(options.head_nbytes_max)
        self._head_deadline_millis = now_millis + options.handshake_timeout_millis
        self._plain: list[bytes] = []  # HTTP, which no script delays
        self._responder = Responder(script, record)
        self._frames = FrameReader(options.receive_buffer_nbytes)
        self._processor: Processor | None = None
        self._upgraded_nbytes = 0
        self.query: Request | None = None
        self.ending: Ending | None = None

    # --- what comes in -------------------------------------------------------------------------

    def receive(self, data: bytes | memoryview, now_millis: int) -> None:
        """Bytes of the client."""
        self._record.received_nbytes += len(data)
        behind = self._receive_head(data, now_millis) if self._state is _State.HEAD else data
        if self._state is _State.OPEN and len(behind):
            self._receive_frames(behind, now_millis)

    def _receive_head(self, data: bytes | memoryview, now_millis: int) -> bytes:
        """Bytes of the request; what stands behind it."""
        try:
            found = self._requests.feed(data)
        except BadRequest as error:
            self._refuse(error.refusal)
            return b""
        if found is None:
            return b""
        request, behind = found
        self._answer(request)
        if self._processor is not None:
            self._check_frame_count(now_millis)
        return behind

    def end_of_stream(self) -> None:
        """The client has finished; there is nobody to answer to."""
        self._finish("client_eof", Ending.CLOSE)

    def lost(self, by: str) -> None:
        """The socket is gone: ``by`` names who ended it (`ConnectionRecord.closed_by`).  What was held is free."""
        self._finish(by, Ending.CLOSE)
        self._processor = None
        self._frames = FrameReader(0)
        self._requests = RequestReader(0)

    def tick(self, now_millis: int) -> None:
        """Time has passed."""
        if self._state is _State.HEAD and now_millis >= self._head_deadline_millis:
            self._refuse(Refusal(408, "the request head took too long"))

    def release(self, now_millis: int) -> None:
        """`Controls.acks_held` is off again."""
        self._responder.release(now_millis)

    @property
    def deadline_millis(self) -> int | None:
        """When `tick` and `take_output` want to be called again, without anything coming in."""
        if self._state is _State.HEAD:
            return self._head_deadline_millis
        return self._responder.due_millis

    def take_output(self, now_millis: int) -> bytes:
        """What is to be written now."""
        output = b"".join(self._plain) + self._responder.take(now_millis)
        self._plain.clear()
        if self._responder.ends and self._responder.due_millis is None:
            self._finish("server_drop", Ending.CLOSE)
        return output

    @property
    def held_nbytes(self) -> int:
        """About what it keeps in memory for its client that is not stored, its output aside."""
        processor = 0 if self._processor is None else self._processor.held_nbytes
        return self._requests.waiting_nbytes + self._frames.waiting_nbytes + processor

    @property
    def has_ended(self) -> bool:
        """Nothing is left to write: `ending` may be carried out."""
        return self.ending is not None and (self.ending is not Ending.LINGER or self._responder.due_millis is None)

    # --- the request ---------------------------------------------------------------------------

    def _answer(self, request: Request) -> None:
        self._record.target, self._record.headers = request.target, request.headers
        if not request.is_upgrade:
            self._answer_plain(request)
            return
        if self._script.silent:
            self._state = _State.SILENT
            return
        if self._script.upgrade_raw is not None:
            self._answer_upgrade(self._script.upgrade_raw.encode("latin-1"), None)
            return
        refusal = self._controls.refusal or self._scripted_refusal()
        refusal = refusal or handshake.judge(request, self._options, self._role)
        if refusal is not None:
            self._refuse(refusal, self._script.upgrade_nbytes_max)
            return
        durable_ack = handshake.grants_durable_ack(request, self._options)
        headers = self._bent_headers(handshake.accept_headers(request, self._options, self._role, durable_ack))
        if self._script.cap_nbytes is not None:
            self._frames = FrameReader(self._script.cap_nbytes + FRAME_HEADER_BYTES_MAX)
        self._processor = Processor(
            self._options,
            self._store,
            self._wall_nanos,
            durable_ack=durable_ack,
            refuse=self._script.rejection if self._script.reject else None,
            forbid=self._forbid(request),
        )
        self._state = _State.OPEN
        self._answer_upgrade(handshake.response(101, headers), 101)

    @property
    def _role(self) -> str:
        return self._controls.role or self._options.role

    def _forbid(self, request: Request) -> Forbid:
        """Why a block of this connection is refused, looked at for each one."""
        auth, controls = self._options.auth, self._controls  # not self: it would be a cycle, freed late
        if self._options.read_only:
            mine = (Status.SECURITY_ERROR.value, "this instance is read-only")
        elif auth is not None and not auth.may_write(_authorization(request)):
            mine = (Status.SECURITY_ERROR.value, "permission denied: these credentials may not write")
        else:
            return lambda: controls.forbidden
        return lambda: mine

    def _answer_upgrade(self, answer: bytes, status: int | None) -> None:
        end = self._script.upgrade_nbytes_max
        self._plain.append(answer if end is None else answer[:end])
        if end is not None:
            self._finish("server_drop", Ending.CLOSE)
            return
        self._record.status = status
        if status is None:
            self._state = _State.SILENT

    def _scripted_refusal(self) -> Refusal | None:
        wanted = self._script.refuse
        if wanted is None:
            return None
        headers = list(wanted.headers)
        if wanted.role is not None:
            headers.append((upgrade.ROLE, wanted.role))
        if wanted.retry_after_seconds is not None:
            headers.append(("Retry-After", str(wanted.retry_after_seconds)))
        return Refusal(wanted.status, wanted.body, tuple(headers))

    def _bent_headers(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        changes = list(self._script.upgrade_headers)
        changed = {name.lower() for name, _ in changes}
        if self._script.cap_nbytes is not None and upgrade.CAP.lower() not in changed:
            changes.append((upgrade.CAP, str(self._script.cap_nbytes)))
            changed.add(upgrade.CAP.lower())
        kept = [pair for pair in headers if pair[0].lower() not in changed]
        return [*kept, *((name, value) for name, value in changes if value is not None)]

    def _refuse(self, refusal: Refusal, nbytes_max: int | None = None) -> None:
        """``nbytes_max``: so much of it, then the end."""
        self._plain.append(handshake.refuse(refusal)[:nbytes_max])
        if nbytes_max is not None:
            self._finish("server_drop", Ending.CLOSE)
            return
        self._record.status = refusal.status
        self._finish("server_refusal", Ending.LINGER)

    def _answer_plain(self, request: Request) -> None:
        if self._options.auth is not None and not self._options.auth.allows(_authorization(request)):
            self._refuse(handshake.UNAUTHORIZED)
            return
        answer = self._http(request)
        if answer is None:
            self._state, self.query = _State.QUERY, request
        else:
            self.answer_query(answer)

    @property
    def awaits_query(self) -> bool:
        """The HTTP side is at work for it."""
        return self._state is _State.QUERY

    def answer_query(self, answer: bytes) -> None:
        """The HTTP side has its response."""
        self._record.status = int(answer[9:12])
        self._plain.append(answer)
        self._finish("http", Ending.LINGER)

    # --- frames --------------------------------------------------------------------------------

    def _receive_frames(self, data: bytes | memoryview, now_millis: int) -> None:
        drop = self._script.drop
        if drop is not None and drop.after_nbytes is not None:
            data = data[: max(0, drop.after_nbytes - self._upgraded_nbytes)]
        self._upgraded_nbytes += len(data)
        self._responder.hold = self._controls.acks_held or self._responder.hold
        self._frames.feed(data)
        try:
            while self._state is _State.OPEN and (frame := self._frames.next()) is not None:
                self._frame(frame, now_millis)
        except FrameFault as fault:
            if fault.acks_first:
                self._flush(now_millis)
            self._close(fault.code, fault.text, now_millis)
        if self._state is not _State.OPEN:
            return
        if drop is not None and drop.mid_frame == self._record.message_count and self._frames.waiting_nbytes:
            self._drop(now_millis)
            return
        self._flush(now_millis)
        if drop is not None and drop.after_nbytes is not None and self._upgraded_nbytes >= drop.after_nbytes:
            self._drop(now_millis)

    def _frame(self, frame: frames.Frame, now_millis: int) -> None:
        match frame.opcode:
            case frames.BINARY:
                self._message(frame.payload, now_millis)
            case frames.PING:
                self._record.pings += 1
                self._flush(now_millis)
                self._responder.send(frames.build(frames.PONG, frame.payload), now_millis)
            case frames.PONG:
                self._record.pongs += 1
            case frames.CLOSE:
                self._flush(now_millis)
                code = int.from_bytes(frame.payload[:2], "big") if frame.payload else None
                self._record.closed("client_close", code, frame.payload[2:].decode(errors="replace"))
                self._responder.close(frames.build_close(frames.echo_code(frame.payload)), now_millis)
                self._finish("client_close", Ending.LINGER)

    def _message(self, payload: bytes, now_millis: int) -> None:
        drop = self._script.drop
        if drop is not None and drop.mid_frame == self._record.message_count:
            self._drop(now_millis)
            return
        assert self._processor is not None
        responses = self._processor.message(payload, now_millis)
        self._record.row_count = self._processor.row_count
        self._record.keep(payload)  # who waits for the count finds its rows
        self._responder.say(responses, now_millis)
        self._check_frame_count(now_millis)

    def _check_frame_count(self, now_millis: int) -> None:
        """Ends that a script puts behind so many frames, or behind no byte at all."""
        drop, close, count = self._script.drop, self._script.close, self._record.message_count
        if drop is not None and (drop.after_frames == count or drop.after_nbytes == 0):
            self._drop(now_millis)
        elif close is not None and close.after_frames == count:
            self._flush(now_millis)
            self._close(close.code, close.reason, now_millis)

    def _flush(self, now_millis: int) -> None:
        assert self._processor is not None
        self._responder.say(self._processor.flush(now_millis), now_millis)

    # --- the end -------------------------------------------------------------------------------

    def _close(self, code: int | None, reason: str, now_millis: int) -> None:
        self._record.closed("server_close", code, reason)
        self._responder.close(frames.build_close(code, reason), now_millis)
        self._finish("server_close", Ending.LINGER)

    def _drop(self, now_millis: int) -> None:
        drop = self._script.drop
        assert drop is not None
        if drop.before_ack:
            self._responder.discard()
        else:
            self._flush(now_millis)
        self._finish("server_drop", Ending.RESET if drop.reset else Ending.CLOSE)

    def ping(self, payload: bytes, now_millis: int) -> None:
        """A PING of ours; nothing where there is no WebSocket."""
        if self._state is _State.OPEN:
            self._responder.send(frames.build(frames.PING, payload), now_millis)

    def close(self, code: int | None, reason: str, now_millis: int) -> None:
        """The program ends it: pending acks, then CLOSE; what is no WebSocket is dropped."""
        if self._state is _State.OPEN:
            self._flush(now_millis)
            self._close(code, reason, now_millis)
        else:
            self.drop("server_drop")

    def drop(self, by: str, reset: bool = False) -> None:
        """The program ends it: no CLOSE frame."""
        self._finish(by, Ending.RESET if reset else Ending.CLOSE)

    def _finish(self, by: str, ending: Ending) -> None:
        self._record.closed(by)
        self._state = _State.OVER
        if self.ending is None:
            self.ending = ending


def _authorization(request: Request) -> str | None:
    return next((value for name, value in request.headers if name.lower() == "authorization"), None)
