"""What follows from each attempt to drain a slot (behaviour.md 7.3, ours.md 20)."""

from __future__ import annotations

from random import Random

import pytest

from spoolq.delivery import drain, verdicts
from spoolq.delivery.drain import Again, DrainLife, DrainOptions, End, Ended, Fail, Note, Outcome, Waiting
from spoolq.errors import (
    AuthError,
    ConnectError,
    DurableAckError,
    ServerRejection,
    SlotRefusedError,
    SpoolqError,
    StorageError,
)
from spoolq.qwp.responses import ErrorFrame

REFUSED = AuthError("ws-upgrade-failed: one refused the credentials", status=401)
EXHAUSTED = ConnectError(f"{verdicts.NEVER_CONNECTED}: nobody is there", tag=verdicts.NEVER_CONNECTED)
GIVE_UP = 300_000


class _Life:
    """A life with a clock."""

    def __init__(self, **options: int) -> None:
        self.now_millis = 5_000
        self.life = DrainLife(DrainOptions(**options), Random(3), self.now_millis)
        self.actions: list[drain.Action] = []

    def tell(self, *events: drain.Event, after: int = 0) -> list[drain.Action]:
        self.now_millis += after
        found = [action for event in events for action in self.life.handle(event, self.now_millis)]
        self.actions += found
        return found

    @property
    def outcome(self) -> Outcome | None:
        return self.life.outcome

    @property
    def failed(self) -> str:
        """The text of ``.failed``; "" when none is written."""
        return "".join(action.text for action in self.actions if isinstance(action, Fail))


def _rejection(status: int = 3, policy: str = "schema_mismatch") -> ServerRejection:
    return verdicts.rejected("one:9000", policy, ErrorFrame(status, 4, "no such column"), 4, 4)


def test_a_drained_slot_is_a_success() -> None:
    life = _Life()
    assert life.tell(drain.Progressed(), drain.Drained()) == [End(Outcome.SUCCESS)]


def test_orp_04_invariant_39_a_busy_lock_ends_it_and_writes_nothing() -> None:
    life = _Life()
    assert life.tell(drain.Busy("in use by pid 4")) == [End(Outcome.LOCKED_BY_OTHER)]
    assert life.life.last_error == "in use by pid 4"


def test_invariant_39_a_stop_writes_nothing_whatever_was_before() -> None:
    for before in ([], [Ended(REFUSED, 9)], [Waiting("refused", 1)], [drain.Troubled(StorageError("no space"))]):
        life = _Life()
        life.tell(*before)
        assert life.tell(drain.Stopped(), after=10 * GIVE_UP) == [End(Outcome.STOPPED)]
        assert life.tell(drain.Damaged("later"), Ended(_rejection(), 1)) == [], "nothing comes behind the end"


def test_orp_05_proven_damage_fails_at_once() -> None:
    life = _Life()
    life.tell(drain.Damaged("FSN 3 to 4 is missing"))
    assert life.outcome is Outcome.FAILED
    assert life.failed.startswith("recovery: unreplayable: FSN 3 to 4 is missing\n")
    assert "spoolq verify" in life.failed
    assert "remove this file" in life.failed


@pytest.mark.parametrize(
    "error",
    [
        _rejection(),
        _rejection(8, "security_error"),
        _rejection(9, "write_error"),  # terminal by the user's own policy
        verdicts.too_large("FSN 4 takes 99 bytes, one:9000 at most 50", "one:9000 50", 4),
    ],
)
def test_orp_05_a_verdict_on_a_stored_frame_fails_at_once(error: ServerRejection) -> None:
    life = _Life()
    life.tell(Ended(error, 1))
    assert life.outcome is Outcome.FAILED
    assert life.failed.startswith("sending: ")
    assert str(error) in life.failed


@pytest.mark.parametrize(
    "error",
    [
        verdicts.poisoned("one:9000", 4, 6, "refused: write error", ErrorFrame(9, 4, "disk full")),
        verdicts.protocol_violation("one:9000", "masked frame", 4, 9),
        verdicts.skipped("one:9000", "write_error", ErrorFrame(9, 7, ""), 4, 7),
        SpoolqError("anything else"),
        ConnectError("no endpoint gave a connection"),
    ],
)
def test_invariant_39_what_may_pass_is_tried_again_for_ever(error: SpoolqError) -> None:
    life = _Life()
    for _ in range(200):
        note, again = life.tell(Ended(error, 5), after=10_000)
        assert note == Note(f"{error}\n")
        assert isinstance(again, Again)
    assert (life.outcome, life.failed) == (None, "")


def test_trouble_with_the_disk_is_tried_again_for_ever_with_growing_pauses() -> None:
    life = _Life(backoff_initial_millis=100, backoff_max_millis=1_000, outage_budget_millis=1, give_up_millis=0)
    pauses = []
    for _ in range(50):
        error = SlotRefusedError("a newer version wrote it")
        note, again = life.tell(drain.Troubled(error), after=1_000_000)
        assert note == Note("a newer version wrote it\n")
        assert isinstance(again, Again)
        pauses.append(again.at_millis - life.now_millis)
    assert all(100 << n <= pause < 200 << n for n, pause in enumerate(pauses[:4]))
    assert all(1_000 <= pause < 2_000 for pause in pauses[4:])
    life.tell(drain.Progressed())
    _, again = life.tell(drain.Troubled(StorageError("no space")))
    assert isinstance(again, Again)
    assert again.at_millis - life.now_millis < 200


def test_refused_credentials_fail_when_they_lasted_and_were_tried_three_times() -> None:
    life = _Life()
    life.tell(Ended(REFUSED, 1))
    life.tell(Ended(REFUSED, 1), after=GIVE_UP - 1)
    assert life.outcome is None
    assert life.life.last_error == str(REFUSED)
    life.tell(Ended(REFUSED, 1), after=1)
    assert life.outcome is Outcome.FAILED
    assert life.failed.startswith(f"connecting: {REFUSED} [for {GIVE_UP} ms, 3 attempts]")


def test_dua_06_durable_acks_that_are_not_granted_count_as_refused_credentials_do() -> None:
    life = _Life()
    missing = DurableAckError("no endpoint grants durable acks")
    for after in (0, 1, GIVE_UP - 2):
        life.tell(Ended(missing, 1), after=after)
        assert life.outcome is None
    life.tell(Ended(missing, 1), after=1)
    assert life.outcome is Outcome.FAILED
    assert life.failed.startswith(f"connecting: {missing} [for {GIVE_UP} ms, 4 attempts]")


def test_two_refusals_are_not_enough_however_long_it_lasted() -> None:
    life = _Life()
    life.tell(Ended(REFUSED, 1))
    life.tell(Ended(REFUSED, 1), after=100 * GIVE_UP)
    assert life.outcome is None


def test_what_lasted_counts_from_the_first_refusal_and_progress_ends_it() -> None:
    life = _Life()
    life.tell(drain.Progressed())
    for _ in range(5):
        life.tell(Ended(REFUSED, 1), after=GIVE_UP // 5 if life.failed else 10)
    assert life.outcome is None, "an hour without refusals before does not count"
    life.tell(drain.Progressed(), after=GIVE_UP)
    life.tell(Ended(REFUSED, 1), Ended(REFUSED, 1), Ended(REFUSED, 1), after=GIVE_UP)
    assert life.outcome is None
    life.tell(Ended(REFUSED, 1), after=GIVE_UP)
    assert life.outcome is Outcome.FAILED


def test_trouble_on_the_way_is_never_enough_without_an_outage_budget() -> None:
    life = _Life()
    for _ in range(100):
        assert life.tell(Waiting("one:9000: refused", 1), after=GIVE_UP) == [Note("one:9000: refused\n")]
    assert life.outcome is None


def test_orp_11_an_outage_budget_that_is_used_up_fails_with_its_tag() -> None:
    life = _Life(outage_budget_millis=60_000)
    for _ in range(4):
        life.tell(Waiting("refused", 1), after=30_000)
        note, again = life.tell(Ended(EXHAUSTED, 1), after=30_000)
        assert isinstance(note, Note)
        assert isinstance(again, Again)
    life.tell(Waiting("refused", 1), after=30_000)
    assert life.outcome is None, "the machine says when the budget is used up"
    life.tell(Ended(EXHAUSTED, 1), after=30_000)
    assert life.outcome is Outcome.FAILED
    assert life.failed.startswith(f"connecting: {EXHAUSTED} [for 300000 ms, 10 attempts]")


@pytest.mark.parametrize(("budget", "give_up", "at"), [(400_000, 300_000, 400_000), (1_000, 300_000, 300_000)])
def test_the_budget_and_the_time_to_give_up_must_both_be_over(budget: int, give_up: int, at: int) -> None:
    life = _Life(outage_budget_millis=budget, give_up_millis=give_up)
    life.tell(Ended(EXHAUSTED, 3), after=at - 1)
    assert life.outcome is None
    life.tell(Ended(EXHAUSTED, 1), after=1)
    assert life.outcome is Outcome.FAILED


def test_orp_11_a_silent_server_needs_three_connections() -> None:
    life = _Life(outage_budget_millis=GIVE_UP)
    for attempt in range(3):
        assert life.outcome is None, attempt
        life.tell(Ended(EXHAUSTED, 1), after=GIVE_UP)
    assert life.outcome is Outcome.FAILED


def test_with_a_budget_a_frame_that_is_refused_for_ever_is_given_up_with_the_tag() -> None:
    life = _Life(outage_budget_millis=60_000)
    error = verdicts.poisoned("one:9000", 4, 6, "refused: write error", ErrorFrame(9, 4, "disk full"))
    while life.outcome is None:
        life.tell(Ended(error, 6), after=7_000)
    assert 305_000 <= life.now_millis <= 315_000
    assert life.failed.startswith("connecting: connection-lost-budget-exhausted: FSN 4 failed 6 times")


def test_progress_begins_the_budget_again() -> None:
    life = _Life(outage_budget_millis=1_000, give_up_millis=1_000)
    for _ in range(10):
        life.tell(Ended(EXHAUSTED, 5), after=999)
        life.tell(drain.Progressed())
    assert life.outcome is None


def test_somebody_who_took_the_slot_before_it_could_be_marked_has_it() -> None:
    life = _Life()
    life.tell(drain.Damaged("why"))
    life.life.overtaken("in use by pid 4")
    assert (life.outcome, life.life.last_error) == (Outcome.LOCKED_BY_OTHER, "in use by pid 4")
