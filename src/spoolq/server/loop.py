"""The server's only I/O thread: a selector, the listener, and one `Channel` per open connection.

    Loop(...).start()      .call(function) runs it on the thread and waits for it      .stop()

Everything about connections happens on this thread; other threads come in through `call`.  Bounds: one read of
`READ_NBYTES` a round and connection; a connection whose answers pile up is not read; above ``connections_max`` a
new one is closed at once; when all together hold more than ``held_nbytes_max``, the one that added to it ends.
Queries of the HTTP side run on one more thread, started on first use.
"""

from __future__ import annotations

import errno
import heapq
import logging
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from spoolq.server.connection import Connection, Ending
from spoolq.server.handshake import Request
from spoolq.server.record import ConnectionRecord
from spoolq.server.transport import Transport, TransportFault

READ_NBYTES: Final = 1 << 18
_LINGER_MILLIS: Final = 1_000  # how long what a client still sends is drained, so that our last words arrive
_WRITE_NBYTES: Final = 1 << 18
_TIMERS_SPARE: Final = 64
_INTERRUPT_SECONDS: Final = 0.02
_PAUSE_MILLIS: Final = 100
_TRY_AGAIN_LATER: Final = 1013
_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)
_ACCEPTS_PER_ROUND: Final = 64
_log = logging.getLogger("spoolq.server")
_T = TypeVar("_T")


def monotonic_millis() -> int:
    """The clock of the loop."""
    return time.monotonic_ns() // 1_000_000


@dataclass(slots=True, eq=False)
class Channel:
    """A socket with its connection."""

    socket: socket.socket
    transport: Transport
    connection: Connection
    record: ConnectionRecord
    outgoing: bytearray = field(default_factory=bytearray)
    linger_deadline_millis: int | None = None
    interest: int = selectors.EVENT_READ
    is_read_closed: bool = False  # the client has sent its FIN and still waits for an answer
    held_nbytes: int = 0  # its part of `Loop.held_nbytes`
    timer_millis: int | None = None  # the entry of the loop's heap that counts


# A new socket -> its channel.
Open = Callable[[socket.socket, int], Channel]


class Loop:
    """``opened`` makes the channel of a new socket; ``round_done`` is called after each round; ``execute`` answers a
    query on its thread, ``interrupt`` ends it.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        opened: Open,
        round_done: Callable[[], None],
        execute: Callable[[Request], bytes],
        interrupt: Callable[[], None],
        connections_max: int,
        outgoing_nbytes_max: int,
        held_nbytes_max: int,
    ) -> None:
        self._listener = listener
        self._opened = opened
        self._round_done = round_done
        self._execute = execute
        self._interrupt = interrupt
        self._connections_max = connections_max
        self._outgoing_nbytes_max = outgoing_nbytes_max
        self._held_nbytes_max = held_nbytes_max
        self.held_nbytes = 0
        self._scratch = memoryview(bytearray(READ_NBYTES))
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._calls: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._calls_lock = threading.Lock()
        self._stopping = False
        self._queries: ThreadPoolExecutor | None = None
        self._queried: deque[Future[bytes]] = deque()
        self._timers: list[tuple[int, int, Channel]] = []  # a heap; see Channel.timer_millis
        self._timer_count = 0
        self._paused_until_millis: int | None = None  # the listener is not asked
        self.channels: dict[int, Channel] = {}
        self._thread = threading.Thread(target=self._run, name="spoolq-server", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        for sock in (self._listener, self._waker, self._woken):
            sock.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def call(self, function: Callable[[], _T]) -> _T:
        """Runs it on the thread and gives its value; on the thread itself: at once."""
        if threading.current_thread() is self._thread:
            return function()
        future: Future[_T] = Future()
        with self._calls_lock:
            if self._stopping:
                raise RuntimeError("the server is stopped")
            self._calls.append((function, future))
        self._wake()
        return future.result()

    def stop(self) -> None:
        """Ends the thread; every socket is closed when this returns."""
        with self._calls_lock:
            self._stopping = True
        self._wake()
        self._thread.join()
        self._waker.close()  # not by the thread: it may end between the flag and the wake

    def _wake(self) -> None:
        with suppress(OSError):  # full: it is awake; closed: it has ended, and its calls have their answer
            self._waker.send(b"\0")

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._round()
        except Exception:
            _log.exception("the server thread failed; its connections are closed")
        finally:
            self._end()

    def _round(self) -> None:
        for key, events in self._selector.select(self._timeout_seconds()):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._woken:
                self._run_calls()
            else:
                self._serve(key.data, events)
        self._run_timers()
        self._round_done()

    def _serve(self, channel: Channel, events: int) -> None:
        """One channel's turn; a mistake of ours there ends that connection and no other."""
        try:
            if events & selectors.EVENT_READ and _is_open(channel):
                self._read(channel)
            if _is_open(channel):
                self._pump(channel)
            if _is_open(channel):
                self._weigh(channel)
        except Exception:
            _log.exception("connection %d failed and is closed", channel.record.index)
            if _is_open(channel):
                self._discard(channel, "server_error")

    def _weigh(self, channel: Channel) -> None:
        """What it holds now; beyond the bound of all it has to go."""
        before, channel.held_nbytes = channel.held_nbytes, channel.connection.held_nbytes + len(channel.outgoing)
        self.held_nbytes += channel.held_nbytes - before
        if self.held_nbytes > self._held_nbytes_max and channel.held_nbytes > before:
            _log.info("connection %d is closed: all hold %d bytes", channel.record.index, self.held_nbytes)
            channel.connection.close(_TRY_AGAIN_LATER, "the server holds too much", monotonic_millis())
            self._pump(channel)

    def _run_timers(self) -> None:
        now = monotonic_millis()
        if self._paused_until_millis is not None and self._paused_until_millis <= now:
            self._resume()
        while self._timers and self._timers[0][0] <= now:
            due, _, channel = heapq.heappop(self._timers)
            if channel.timer_millis == due and _is_open(channel):
                channel.timer_millis = None
                channel.connection.tick(now)
                self._pump(channel)

    def _forget_old_timers(self) -> None:
        """Entries of channels that are gone, or wait for another moment by now: else a flood of connections that
        come and go would be held until their time had come."""
        if len(self._timers) <= _TIMERS_SPARE + 2 * len(self.channels):
            return
        self._timers = [entry for entry in self._timers if _is_open(entry[2]) and entry[2].timer_millis == entry[0]]
        heapq.heapify(self._timers)

    def _timeout_seconds(self) -> float | None:
        due = [self._timers[0][0]] if self._timers else []
        if self._paused_until_millis is not None:
            due.append(self._paused_until_millis)
        return max(0, min(due) - monotonic_millis()) / 1_000 if due else None

    def _run_calls(self) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        with self._calls_lock:
            calls, self._calls = self._calls, []
        for function, future in calls:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_ROUND):
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR:
                    self._pause()
                return  # none left, or gone before we came
            if len(self.channels) >= self._connections_max:
                sock.close()
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            channel = self._opened(sock, monotonic_millis())
            self.channels[sock.fileno()] = channel
            self._selector.register(sock, selectors.EVENT_READ, channel)
            self._watch(channel)

    def _pause(self) -> None:
        """No descriptor is free: those who wait in the listener's queue wait on, and the selector is not asked again
        and again.  A connection that ends, or a little time, ends it."""
        self._selector.unregister(self._listener)
        self._paused_until_millis = monotonic_millis() + _PAUSE_MILLIS

    def _resume(self) -> None:
        if self._paused_until_millis is not None:
            self._paused_until_millis = None
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _read(self, channel: Channel) -> None:
        try:
            count = channel.socket.recv_into(self._scratch)
        except BlockingIOError:
            return
        except OSError:
            self._discard(channel, "client_reset")
            return
        if not count:
            if channel.outgoing or channel.connection.awaits_query:
                channel.is_read_closed = True
                return
            if channel.linger_deadline_millis is not None or channel.connection.ending is not None:
                self._discard(channel, "client_eof")
                return
            channel.connection.end_of_stream()
        elif channel.connection.ending is None:
            try:
                channel.connection.receive(channel.transport.incoming(self._scratch[:count]), monotonic_millis())
            except TransportFault as fault:
                _log.info("connection %d: TLS failed: %s", channel.record.index, fault)
                channel.connection.drop("client_tls")
        query = channel.connection.query
        if query is not None:
            channel.connection.query = None
            self._start_query(channel, query)

    def _start_query(self, channel: Channel, request: Request) -> None:
        if self._queries is None:
            self._queries = ThreadPoolExecutor(1, thread_name_prefix="spoolq-server-query")
        future = self._queries.submit(self._execute, request)
        self._queried.append(future)

        def finish() -> None:
            if _is_open(channel):
                channel.connection.answer_query(future.result())
                self._pump(channel)

        def done(_: Future[bytes]) -> None:
            self._queried.remove(future)
            with suppress(RuntimeError):  # stopped meanwhile
                self.post(finish)

        future.add_done_callback(done)

    def post(self, function: Callable[[], Any]) -> None:
        """Runs it on the thread and does not wait."""
        with self._calls_lock:
            if self._stopping:
                raise RuntimeError("the server is stopped")
            self._calls.append((function, Future()))
        self._wake()

    def pump_all(self) -> None:
        """After something was changed from outside."""
        for channel in list(self.channels.values()):
            self._pump(channel)

    def _pump(self, channel: Channel) -> None:
        """Writes what is due, looks whether the connection has ended, and sets what to wait for."""
        try:
            channel.outgoing += channel.transport.outgoing(channel.connection.take_output(monotonic_millis()))
            while channel.outgoing:
                with memoryview(channel.outgoing) as view:
                    sent = channel.socket.send(view[:_WRITE_NBYTES])
                del channel.outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._discard(channel, "client_reset")
            return
        if channel.is_read_closed and not channel.outgoing and not channel.connection.awaits_query:
            channel.connection.end_of_stream()  # nothing more is said to it, and nobody else would end it
        if channel.connection.has_ended and not channel.outgoing and self._finish(channel):
            return
        self._watch(channel)

    def _finish(self, channel: Channel) -> bool:
        """Ends the connection as it wants; True when the socket is closed."""
        ending = channel.connection.ending
        if ending is Ending.LINGER:
            now = monotonic_millis()
            if channel.linger_deadline_millis is None:
                channel.linger_deadline_millis = now + _LINGER_MILLIS
                with suppress(OSError):
                    channel.socket.shutdown(socket.SHUT_WR)
            if now < channel.linger_deadline_millis and not channel.is_read_closed:
                return False
        if ending is Ending.RESET:
            with suppress(OSError):
                channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._discard(channel, "server_drop")
        return True

    def _watch(self, channel: Channel) -> None:
        interest = selectors.EVENT_WRITE if channel.outgoing else 0
        if len(channel.outgoing) <= self._outgoing_nbytes_max and not channel.is_read_closed:
            interest |= selectors.EVENT_READ
        if not interest and channel.interest:
            self._selector.unregister(channel.socket)
        elif interest and not channel.interest:
            self._selector.register(channel.socket, interest, channel)
        elif interest != channel.interest:
            self._selector.modify(channel.socket, interest, channel)
        channel.interest = interest
        due = _due(channel)
        if due is not None and due != channel.timer_millis:
            channel.timer_millis = due
            self._timer_count += 1
            heapq.heappush(self._timers, (due, self._timer_count, channel))
            self._forget_old_timers()

    def _discard(self, channel: Channel, by: str) -> None:
        channel.connection.lost(by)
        self.channels.pop(channel.socket.fileno(), None)
        self.held_nbytes -= channel.held_nbytes
        channel.held_nbytes = 0
        if channel.interest:
            self._selector.unregister(channel.socket)
        channel.socket.close()
        self._forget_old_timers()
        self._resume()

    def _end(self) -> None:
        with self._calls_lock:
            self._stopping = True
            calls, self._calls = self._calls, []
        for _, future in calls:
            future.set_exception(RuntimeError("the server is stopped"))
        self._paused_until_millis = None  # nobody asks the listener any more
        self._listener.close()  # before the others: who comes back at once is refused, and does not wait to be reset
        for channel in list(self.channels.values()):
            self._discard(channel, "server_stop")
        self._selector.close()
        self._woken.close()
        if self._queries is not None:
            self._queries.shutdown(wait=False, cancel_futures=True)
            while wait(list(self._queried), _INTERRUPT_SECONDS).not_done:
                self._interrupt()  # again and again: it may not have begun the first time
            self._queries.shutdown()
        self._round_done()


def _is_open(channel: Channel) -> bool:
    return channel.socket.fileno() >= 0


def _due(channel: Channel) -> int | None:
    """When a channel wants to be looked at without anything coming in."""
    if channel.linger_deadline_millis is not None:
        return channel.linger_deadline_millis
    return channel.connection.deadline_millis
