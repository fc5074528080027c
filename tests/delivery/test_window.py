"""Behind a loss: how much is in flight on the next connection, and when that one begins (ours.md 29a)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from spoolq.delivery import State, actions, events
from spoolq.delivery.window import NO_LIMIT, Window
from spoolq.qwp.responses import ErrorFrame, Ok
from tests.delivery.world import Driver, connected, connection_events, of, only, sent

FRAMES = 60


class Server:
    """Takes everything that comes, answers the first ``answers`` frames of a connection, each by itself, and ends."""

    def __init__(self, driver: Driver, answers: int, end: Callable[[int], events.Event]) -> None:
        self.driver = driver
        self.answers = answers
        self.end = end
        self.received: Counter[int] = Counter()
        self.connects: list[int] = []

    def connection(self) -> None:
        """One connection, from its upgrade to the next one's."""
        driver = self.driver
        self.connects.append(driver.now_millis)
        first = driver.log.acked_fsn + 1
        answered = 0
        found = driver.tell(events.Connected(0))
        while True:
            if runs := of(actions.SendRun, found):
                found = self.take(runs[0])
            elif answered < self.answers and driver.log.acked_fsn < driver.log.published_fsn:
                found = driver.tell(events.Answered(Ok(answered)))
                answered += 1
            else:
                break
        assert driver.log.acked_fsn == first + answered - 1
        if driver.log.acked_fsn < driver.log.published_fsn:
            driver.next_connect(driver.tell(self.end(answered)))

    def take(self, run: actions.SendRun) -> list[actions.Action]:
        last = min(self.driver.log.published_fsn, run.first_fsn + run.max_frames - 1)
        self.received.update(range(run.first_fsn, last + 1))
        return self.driver.tell(events.RunSent(last))


ENDS: dict[str, Callable[[int], events.Event]] = {
    "eof": lambda _: events.Lost("eof"),
    "close 1000": lambda _: events.PeerClosed(1000, ""),
    "close 1011": lambda _: events.PeerClosed(1011, ""),
    "garbage": lambda _: events.Undecodable("junk"),
    "write error": lambda answered: events.Answered(ErrorFrame(9, answered, "")),
    "not writable": lambda answered: events.Answered(ErrorFrame(0x0C, answered, "")),
}


def storm(answers: int, end: str, *endpoints: str, frames: int = FRAMES) -> Server:
    """Such a server until everything is settled."""
    driver = Driver(*endpoints, published=frames - 1, poison_window_millis=10**9)
    server = Server(driver, answers, ENDS[end])
    driver.tell(events.Begin(None))
    while driver.log.acked_fsn < frames - 1:
        server.connection()
        assert len(server.connects) <= 2 * frames
    return server


@pytest.mark.parametrize("answers", [1, 2, 7])
@pytest.mark.parametrize("end", ENDS)
def test_29a_no_row_more_than_a_handful_of_times_whatever_ends_the_connections(answers: int, end: str) -> None:
    received = storm(answers, end, frames=600).received
    assert set(received) == set(range(600))
    assert max(received.values()) <= 5
    assert received.total() <= 5 * 600


@pytest.mark.parametrize("endpoints", [(), ("a", "b")])
@pytest.mark.parametrize("end", ENDS)
def test_29a_a_little_progress_on_each_connection_does_not_keep_the_rate_up(end: str, endpoints: tuple[str]) -> None:
    connects = storm(1, end, *endpoints).connects
    assert len(connects) == FRAMES
    within = [sum(start <= at < start + 2_000 for at in connects) for start in range(0, 60_000, 2_000)]
    assert within[0] <= 7
    assert max(within[4:]) <= 1, "after eight seconds at most one in two"


def test_29a_connections_that_bring_more_and_more_follow_at_once() -> None:
    driver = connected(published=99)
    for settled in (1, 2, 4, 8, 16):
        driver.tell(events.RunSent(99), events.Answered(Ok(settled - 1)))
        assert driver.next_connect(driver.tell(events.Lost("eof")))[0] == 0
        driver.tell(events.Connected(0))
    driver.tell(events.RunSent(99), events.Answered(Ok(30)))
    assert driver.next_connect(driver.tell(events.Lost("eof")))[0] >= 100, "31 are less than 2 * 16"


def test_29a_a_connection_that_stood_long_is_worth_another_one_at_once() -> None:
    driver = sent(published=9)
    for stood, pause in ((10_000, 0), (9_999, 100), (10_000, 0)):
        driver.tell(events.Answered(Ok(0)))
        driver.pass_millis(stood)
        found = driver.next_connect(driver.tell(events.Lost("eof")))[0]
        assert pause <= found < pause + 100
        driver.tell(events.Connected(0), events.RunSent(9))


def test_29a_the_server_that_refuses_and_the_one_that_is_too_small_are_left_at_once_after_any_progress() -> None:
    """They do their part: what is in front of the refused frame, or of the one that is too large, is settled."""
    driver = sent("a", published=99, can_drop=True, policies={"schema_mismatch": "drop"})
    for fsn in range(0, 20, 2):
        driver.tell(events.Answered(Ok(0)), events.Answered(ErrorFrame(3, 1, "no")))
        assert driver.next_connect(driver.tell(events.LetterSaved(fsn + 1)))[0] == 0
        driver.tell(events.Connected(0), events.RunSent(99))
    driver.tell(events.Answered(ErrorFrame(3, 0, "no")))
    assert driver.next_connect(driver.tell(events.LetterSaved(20)))[0] >= 100
    driver = connected("a", "b", published=99)
    driver.tell(events.RunSent(0), events.FrameTooLarge(1, 5_000), events.Answered(Ok(0)))
    driver.tell(events.Connected(0), events.RunSent(1), events.Answered(Ok(0)), events.RunSent(2))
    assert driver.next_connect(driver.tell(events.FrameTooLarge(3, 5_000), events.Answered(Ok(1)))) == (0, 0)


# --- the limit ------------------------------------------------------------------------------------------


def test_29a_what_is_in_flight_behind_a_loss_is_twice_what_was_answered() -> None:
    window = Window()
    window.begin(-1)
    assert window.room(-1, 0) == NO_LIMIT
    window.end(2, 2, in_flight=True, drained=False)
    window.begin(2)
    assert [window.room(answered, 9) for answered in (2, 5, 6, 8)] == [0, 3, 6, 12]
    window.end(2, 2, in_flight=True, drained=False)
    window.begin(2)
    assert [window.room(2, next_fsn) for next_fsn in (3, 4)] == [1, 0], "one at least"


@pytest.mark.parametrize(
    ("in_flight", "drained", "limited"), [(True, False, True), (False, True, False), (False, False, True)]
)
def test_a_limit_is_gone_when_a_connection_left_nothing_to_send(in_flight: bool, drained: bool, limited: bool) -> None:
    window = Window()
    window.end(0, 0, in_flight=True, drained=False)
    window.end(0, 0, in_flight=in_flight, drained=drained)
    assert (window.room(0, 1) < NO_LIMIT) is limited


def test_a_loss_that_left_nothing_in_flight_limits_nothing() -> None:
    driver = connected(published=3)
    driver.tell(events.RunSent(3), events.Answered(Ok(3)), events.Lost("eof"))
    driver.log.published_fsn = 9_999
    run = only(actions.SendRun, driver.tell(events.Connected(0)))
    assert (run.first_fsn, run.max_frames) == (4, 4_096)


@pytest.mark.parametrize("settled", [0, 100])
def test_29a_a_good_server_has_a_large_backlog_after_a_few_round_trips(settled: int) -> None:
    driver = sent(published=99_999)
    if settled:
        driver.tell(events.Answered(Ok(settled - 1)))
    driver.next_connect(driver.tell(events.Lost("eof")))
    found = driver.tell(events.Connected(0))
    trips = runs = 0
    while driver.log.acked_fsn < 99_999:
        trips += 1
        while of(actions.SendRun, found):
            run = only(actions.SendRun, found)
            last = min(99_999, run.first_fsn + run.max_frames - 1)
            found, runs = driver.tell(events.RunSent(last)), runs + 1
        found = driver.tell(events.Answered(Ok(last - settled)))
    assert trips <= 13
    assert runs <= 45


def test_an_answer_to_half_of_it_lets_the_next_ones_out_not_each_answer() -> None:
    driver = sent(published=999)
    driver.tell(events.Answered(Ok(49)), events.Lost("eof"))
    run = only(actions.SendRun, driver.tell(events.Connected(0)))
    assert (run.first_fsn, run.max_frames) == (50, 100)
    assert not of(actions.SendRun, driver.tell(events.RunSent(149), events.Answered(Ok(48))))
    run = only(actions.SendRun, driver.tell(events.Answered(Ok(49))))
    assert (run.first_fsn, run.max_frames) == (150, 50)


def test_29a_a_server_that_answers_only_so_many_frames_at_once_gets_them() -> None:
    """The limit alone would wait for an answer that never comes."""
    driver = sent(published=99)
    driver.next_connect(driver.tell(events.Lost("eof")))
    begun = driver.now_millis
    driver.tell(events.Connected(0))
    sizes = [(1, 0)]
    found = driver.tell(events.RunSent(0))
    for _ in range(3):
        assert not of(actions.SendRun, found)
        due = driver.machine.pulse_due_millis(0)
        assert due is not None
        driver.pass_millis(due - driver.now_millis - 1)
        assert driver.tell(events.PulseDue(0)) == []
        driver.pass_millis(1)
        run = only(actions.SendRun, driver.tell(events.PulseDue(0)))
        sizes.append((run.max_frames, driver.now_millis - begun))
        found = driver.tell(events.RunSent(run.first_fsn + run.max_frames - 1))
    assert sizes == [(1, 0), (1, 200), (2, 600), (4, 1_400)]
    assert only(actions.SendRun, driver.tell(events.Answered(Ok(7)))).max_frames == 16
    assert driver.machine.pulse_due_millis(0) is None


def test_a_limit_that_has_opened_is_as_it_was_on_the_next_connection() -> None:
    window = Window()
    window.end(0, 0, in_flight=True, drained=False)
    for _ in range(2):
        window.begin(0)
        assert [window.room(0, next_fsn) for next_fsn in (1, 2)] == [1, 0]
        window.held_up(1_000)
        assert (window.opens_millis, window.open(1_199), window.open(1_200)) == (1_200, False, True)
        assert [window.room(0, next_fsn) for next_fsn in (2, 3)] == [1, 0]


def test_what_is_published_while_the_limit_holds_waits_for_an_answer() -> None:
    driver = sent(published=1)
    driver.next_connect(driver.tell(events.Lost("eof")))
    driver.tell(events.Connected(0), events.RunSent(0))
    driver.log.published_fsn = 5
    assert not of(actions.SendRun, driver.tell(events.Published()))
    run = only(actions.SendRun, driver.tell(events.Answered(Ok(0))))
    assert (run.first_fsn, run.max_frames) == (1, 2)


# --- groups, durable acks -------------------------------------------------------------------------------


def test_3_6_the_limit_does_not_stop_inside_a_group() -> None:
    """Nothing of it is answered before its commit: it would wait for ever."""
    driver = sent(published=99)
    driver.next_connect(driver.tell(events.Lost("eof")))
    sizes = []
    found = driver.tell(events.Connected(0))
    while of(actions.SendRun, found):
        run = only(actions.SendRun, found)
        last = min(40, run.first_fsn + run.max_frames - 1)  # FSN 40 is the commit
        sizes.append(run.max_frames)
        if run.first_fsn < 40:
            driver.tell(events.DeferredQueued(run.first_fsn, min(39, last)))
        found = driver.tell(events.RunSent(last))
    assert last == 40
    assert sizes == [1, 1, 2, 4, 8, 16, 32]
    assert only(actions.Settle, driver.tell(events.Answered(Ok(40)))).fsn == 40


def test_3_6_behind_a_group_that_is_whole_the_limit_holds() -> None:
    driver = sent(published=99)
    driver.next_connect(driver.tell(events.Lost("eof")))
    driver.tell(events.Connected(0), events.DeferredQueued(0, 0), events.RunSent(0))
    assert not of(actions.SendRun, driver.tell(events.RunSent(1)))
    assert only(actions.SendRun, driver.tell(events.Answered(Ok(1)))).first_fsn == 2


def test_4_4_with_durable_acks_an_ok_opens_the_window_and_not_a_durable_ack() -> None:
    driver = sent(published=99, durable_ack=True)
    driver.next_connect(driver.tell(events.Lost("eof")))
    driver.tell(events.Connected(0), events.RunSent(0))
    run = only(actions.SendRun, driver.tell(events.Answered(Ok(0, (("t", 1),)))))
    assert (run.first_fsn, run.max_frames) == (1, 2)
    assert driver.log.acked_fsn == -1


def test_ours_4_another_dictionary_is_no_loss_and_leaves_the_limit_as_it_is() -> None:
    driver = sent(published=9, backoff_initial_millis=5_000)
    driver.tell(events.Answered(Ok(9)), events.DictionaryRestarted(), events.Connected(0))
    driver.log.published_fsn = 19
    driver.tell(events.Published(), events.RunSent(19), events.Answered(Ok(0)))
    found = driver.tell(events.Lost("eof"))
    assert driver.machine.state is State.CONNECTING, "that was the first loss, after progress"
    assert [event.kind for event in connection_events(found)] == ["disconnected"]
