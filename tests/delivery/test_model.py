"""The machine against a world that is scripted by hypothesis, on a virtual clock.

The world is a list of endpoints, each connect consumes the next step of the script; when the script
is used up every endpoint is a good server.  Whatever the script says must hold:

- on a connection the frames go out in order, from the one behind the last settled, without a gap;
- nothing is settled that was not handed to the socket of this connection whole, and never twice;
- with the policy drop: what is settled was answered OK, or is the oldest frame and has become a letter;
- a burst of actions is short, and connects are paid for by progress, by a pause or by a refusal
  that may be followed at once: no busy loop;
- a good server gets everything: the run ends with all frames settled;
- what ends the sender instead is a cause that the script contains.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from spoolq.delivery import State, actions, events
from spoolq.delivery.events import ConnectFailed, FailureKind
from spoolq.errors import AuthError, ServerRejection
from spoolq.qwp.responses import ErrorFrame, Ok
from tests.delivery.world import Driver, of

FRAMES_MAX = 40
_FAILURES = {
    "refused": ConnectFailed(FailureKind.TRANSPORT, "refused"),
    "replica": ConnectFailed(FailureKind.ROLE, "replica", 421, "REPLICA"),
    "catching up": ConnectFailed(FailureKind.ROLE, "catching up", 421, "PRIMARY_CATCHUP"),
    "busy": ConnectFailed(FailureKind.STATUS, "503", 503, retry_after_millis=700),
    "auth": ConnectFailed(FailureKind.AUTH, "401", 401),
}
_ENDS = (
    "eof",
    "close 1000",
    "close 1011",
    "junk",
    "write error",
    "not writable",
    "gap",
    "schema",
    "breach",
    "skip",
    "beyond",
    "stay",
)
_STRIKES = ("close 1011", "junk", "write error", "gap", "beyond", "skip")


@dataclass(frozen=True)
class Step:
    """One connect: a failure, or a server that takes some frames, answers some of them, and ends."""

    failure: str | None
    takes: int
    acks: int
    end: str
    partly: bool
    lies: bool


steps = st.builds(
    Step,
    failure=st.sampled_from([None, None, None, "refused", "replica", "catching up", "busy", "auth"]),
    takes=st.integers(0, 6),
    acks=st.integers(0, 6),
    end=st.sampled_from(_ENDS),
    partly=st.booleans(),
    lies=st.booleans(),
)
_CARRIED_OUT = (actions.Connect, actions.SendRun, actions.SaveLetter)
_DROPS = {"can_drop": True, "policies": {"schema_mismatch": "drop", "write_error": "drop"}}
GOOD = Step(None, FRAMES_MAX, FRAMES_MAX, "stay", False, False)


@dataclass
class World:
    """Carries the actions out and checks each of them."""

    driver: Driver
    script: list[Step]
    endpoints: int
    frames: int
    pending: list[actions.Action] = field(default_factory=list)
    step: Step = GOOD
    first_fsn: int = 0
    sent_fsn: int = -1  # handed over whole on this connection
    connects: int = 0
    settles: int = 0
    pauses: int = 0
    not_writables: int = 0
    strikes: int = 0
    strikes_since: int = 0
    end: str = ""
    ok_fsn: int = -1  # the newest frame an OK was told for
    settled: int = -1
    letters: set[int] = field(default_factory=set)

    def tell(self, *told: events.Event) -> None:
        found = self.driver.tell(*told)
        assert len(found) <= (8 + 2 * self.endpoints) * max(1, len(told))
        for action in found:
            self.check(action)
        self.pending += [action for action in found if isinstance(action, _CARRIED_OUT)]
        if of(actions.Disconnect, found):
            self.pending = [action for action in self.pending if not isinstance(action, actions.SendRun)]

    def check(self, action: actions.Action) -> None:
        if isinstance(action, actions.Settle):
            assert action.fsn <= self.sent_fsn, "settled what was not sent"
            assert action.fsn <= self.ok_fsn or action.fsn == self.settled + 1 in self.letters, "settled by nobody"
            self.settled = action.fsn
            self.settles += 1
            self.strikes = 0
        elif isinstance(action, actions.SetTimer):
            assert action.at_millis >= self.driver.now_millis + 100, "a pause that is none"
            self.pauses += 1
        elif isinstance(action, actions.Connect):
            self.connects += 1
            paid = 1 + self.settles + self.pauses + self.not_writables
            assert self.connects <= self.endpoints * paid, "a busy loop of connects"

    def run(self) -> None:
        self.tell(events.Begin(None))
        for _ in range(2_000):
            if self.pending:
                self.carry_out(self.pending.pop(0))
            elif self.driver.machine.state is State.WAITING:
                assert self.driver.due_millis is not None
                self.driver.now_millis = max(self.driver.now_millis, self.driver.due_millis)
                self.tell(events.TimerDue())
            elif self.driver.machine.state is State.FAILED or self.driver.log.acked_fsn == self.frames - 1:
                return
            elif self.driver.log.published_fsn < self.frames - 1:
                self.driver.log.published_fsn = self.frames - 1
                self.tell(events.Published())
            else:
                self.tell(events.Lost("the world ends a connection on which nothing moves"))
        raise AssertionError("neither drained nor failed")

    def carry_out(self, action: actions.Action) -> None:
        if isinstance(action, actions.Connect):
            self.step = self.script.pop(0) if self.script else GOOD
            if self.step.failure is not None:
                self.end = self.step.failure
                self.tell(_FAILURES[self.step.failure])
                return
            self.first_fsn = self.driver.log.acked_fsn + 1
            self.sent_fsn = self.first_fsn - 1
            self.tell(events.Connected(0))
            if self.driver.machine.state is State.CONNECTED and not self.pending:
                self.finish()
        elif isinstance(action, actions.SendRun):
            self.send(action)
        elif isinstance(action, actions.SaveLetter):
            assert action.fsn not in self.letters, "a second letter of one frame"
            self.letters.add(action.fsn)
            self.tell(events.LetterSaved(action.fsn))

    def send(self, run: actions.SendRun) -> None:
        assert run.first_fsn == self.sent_fsn + 1, "out of order, or a gap"
        assert run.first_fsn <= self.driver.log.published_fsn
        last = min(self.driver.log.published_fsn, run.first_fsn + 2, run.first_fsn + run.max_frames - 1)
        taken = self.first_fsn + self.step.takes - 1
        if last <= taken:
            self.sent_fsn = last
            self.tell(events.RunSent(last))
            if not self.pending:
                self.finish()
            return
        if self.step.partly:
            self.sent_fsn = max(self.sent_fsn, taken)
            self.tell(events.RunPartlySent(self.sent_fsn))
        self.finish()

    def finish(self) -> None:
        """The answers of this step, then its end."""
        step, head = self.step, self.driver.log.acked_fsn + 1
        acked = min(head + step.acks - 1, self.sent_fsn)
        if acked >= head:
            self.ok_fsn = max(self.ok_fsn, acked)
            self.answer(events.Answered(Ok(acked - self.first_fsn)))
        if step.lies:
            self.ok_fsn = max(self.ok_fsn, self.sent_fsn + 9)  # a run under way may reach so far
            self.answer(events.Answered(Ok(self.sent_fsn - self.first_fsn + 9)))
        if self.driver.machine.state is not State.CONNECTED:
            return
        head = self.driver.log.acked_fsn + 1 - self.first_fsn
        ends: dict[str, events.Event] = {
            "eof": events.Lost("eof"),
            "close 1000": events.PeerClosed(1000, ""),
            "close 1011": events.PeerClosed(1011, ""),
            "junk": events.Undecodable("junk"),
            "write error": events.Answered(ErrorFrame(9, head, "")),
            "not writable": events.Answered(ErrorFrame(0x0C, head, "")),
            "gap": events.Answered(ErrorFrame(0x0D, head, "")),
            "schema": events.Answered(ErrorFrame(3, head, "")),
            "breach": events.ProtocolBreach("text"),
            "skip": events.Answered(ErrorFrame(9, head + 2, "")),
            "beyond": events.Answered(ErrorFrame(9, head + 999_999, "")),
        }
        if step.end in ends:
            self.end = step.end
            self.not_writables += step.end == "not writable"
            if step.end in _STRIKES:
                if not self.strikes:
                    self.strikes_since = self.driver.now_millis
                self.strikes += 1
            self.answer(ends[step.end])

    def answer(self, event: events.Event) -> None:
        before = self.driver.log.acked_fsn
        self.tell(event)
        if isinstance(event, events.Answered) and isinstance(event.response, ErrorFrame):
            assert self.driver.log.acked_fsn == before, "a rejection settled something"

    def why(self) -> None:
        """The cause of the end is one that may end a sender."""
        (latch,) = of(actions.Latch, self.driver.actions)
        if isinstance(latch.error, AuthError):
            assert self.end == "auth"
            return
        assert isinstance(latch.error, ServerRejection)
        if "without any progress" in str(latch.error):
            assert self.end in _STRIKES
            assert self.strikes >= 4
            assert self.driver.now_millis - self.strikes_since >= 5_000
        else:
            assert self.end in ("schema", "breach", "skip")


@settings(max_examples=1_500, deadline=None)
@given(
    script=st.lists(steps, max_size=25),
    endpoints=st.integers(1, 3),
    frames=st.integers(1, FRAMES_MAX),
    at_first=st.integers(0, FRAMES_MAX),
    seed=st.integers(0, 2**32),
    drops=st.booleans(),
)
def test_whatever_the_servers_do_the_machine_keeps_its_promises(
    script: list[Step], endpoints: int, frames: int, at_first: int, seed: int, drops: bool
) -> None:
    names = [f"host{index}" for index in range(endpoints)]
    driver = Driver(*names, published=min(at_first, frames) - 1, seed=seed, **_DROPS if drops else {})
    world = World(driver, list(script), endpoints, frames)
    world.run()
    assert drops or not world.letters
    if world.driver.machine.state is State.FAILED:
        world.why()
    else:
        assert world.driver.log.acked_fsn == frames - 1


def storm(*ends: events.Event, endpoints: int = 1, millis: int = 60_000) -> list[int]:
    """When a server that accepts, takes everything and ends that way is connected to, within a time."""
    driver = Driver(*(f"host{index}" for index in range(endpoints)), published=9, poison_window_millis=10**9)
    times = []
    driver.tell(events.Begin(None))
    while driver.now_millis < millis:
        times.append(driver.now_millis)
        driver.replay(10)
        driver.next_connect(driver.tell(*ends))
    return times


def test_29a_a_steady_server_that_accepts_and_drops_sees_a_bounded_and_falling_rate() -> None:
    for end in (
        events.Lost("eof"),
        events.PeerClosed(1000, ""),
        events.PeerClosed(1001, ""),
        events.PeerClosed(1011, ""),
        events.Undecodable("junk"),
        events.Answered(ErrorFrame(9, 0, "")),
        events.Answered(ErrorFrame(0x0C, 0, "")),
    ):
        times = storm(end)
        first_seconds = [sum(start <= time < start + 2_000 for time in times) for start in range(0, 60_000, 2_000)]
        assert first_seconds[0] <= 6
        assert max(first_seconds[3:]) <= 1, "after six seconds at most one in two"
        assert len(times) <= 20  # each row goes out once a connection


def test_29a_two_such_servers_do_not_make_it_twice_as_fast() -> None:
    assert len(storm(events.Lost("eof"), endpoints=2)) <= 20
