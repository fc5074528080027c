"""Connecting: rounds, budgets, and the table of behaviour.md 5.2 with the rules of ours.md 29a."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from spoolq.delivery import State, actions, events
from spoolq.delivery.events import ConnectFailed, FailureKind
from spoolq.errors import AuthError, ConnectError, RoleMismatchError, StorageError
from spoolq.qwp.responses import ErrorFrame, Ok
from tests.delivery.world import (
    Driver,
    connected,
    connection_events,
    latched,
    of,
    only,
    sent,
    server_errors,
)

TRANSPORT = ConnectFailed(FailureKind.TRANSPORT, "refused")
REPLICA = ConnectFailed(FailureKind.ROLE, "replica", 421, "REPLICA")
CATCHING_UP = ConnectFailed(FailureKind.ROLE, "catching up", 421, "primary_catchup")


@dataclass(frozen=True)
class Row:
    """A row of behaviour.md 5.2: what happens, and what follows."""

    what: str
    event: events.Event
    terminal: bool = False
    strike: bool = False


CONNECT_ROWS = [
    Row("no answer, refused, TLS, timeout, malformed 101, version", TRANSPORT),
    Row("421 PRIMARY_CATCHUP", CATCHING_UP),
    Row("421 other role", REPLICA),
    Row("503", ConnectFailed(FailureKind.STATUS, "503", 503)),
    Row("404", ConnectFailed(FailureKind.STATUS, "404", 404)),
    Row("421 without role", ConnectFailed(FailureKind.STATUS, "421", 421)),
    Row("401", ConnectFailed(FailureKind.AUTH, "no", 401), terminal=True),
    Row("403", ConnectFailed(FailureKind.AUTH, "no", 403), terminal=True),
]


@pytest.mark.parametrize("row", CONNECT_ROWS, ids=lambda row: row.what)
def test_5_2_a_failed_connect_goes_to_the_next_endpoint_or_ends_the_sender(row: Row) -> None:
    driver = Driver("a", "b")
    driver.tell(events.Begin(None))
    found = driver.tell(row.event)
    if row.terminal:
        assert isinstance(latched(found), AuthError)
        assert not of(actions.Connect, found)
        assert driver.machine.state is State.FAILED
    else:
        assert only(actions.Connect, found).endpoint_index == 1


CONNECTION_ROWS = [
    Row("CLOSE 1000", events.PeerClosed(1000, "bye")),
    Row("CLOSE 1001", events.PeerClosed(1001, "")),
    *(Row(f"CLOSE {code}", events.PeerClosed(code, "x"), strike=True) for code in (1002, 1003, 1007, 1009, 1011, 4000)),
    Row("CLOSE without a code", events.PeerClosed(None, ""), strike=True),
    Row("EOF, reset, a read or send error", events.Lost("reset")),
    Row("an answer that cannot be decoded, a negative sequence", events.Undecodable("what"), strike=True),
    Row("retriable rejection", events.Answered(ErrorFrame(6, 0, "oops")), strike=True),
    Row("malformed framing", events.ProtocolBreach("RSV"), terminal=True),
]


@pytest.mark.parametrize("row", CONNECTION_ROWS, ids=lambda row: row.what)
def test_fov_06_the_end_of_a_connection_is_terminal_a_strike_or_neither(row: Row) -> None:
    driver = sent(max_frame_rejections=1, poison_window_millis=0)
    found = driver.tell(row.event)
    assert bool(of(actions.Latch, found)) is (row.terminal or row.strike)
    if row.terminal or row.strike:
        assert latched(found).category == "protocol_violation"  # type: ignore[attr-defined]
    else:
        assert only(actions.Disconnect, found)
        assert driver.machine.state is State.WAITING


@pytest.mark.parametrize("row", [row for row in CONNECTION_ROWS if not row.terminal], ids=lambda row: row.what)
def test_5_2_before_anything_was_sent_nothing_is_a_strike(row: Row) -> None:
    driver = connected(published=-1, max_frame_rejections=1, poison_window_millis=0)
    found = driver.tell(row.event)
    assert not of(actions.Latch, found)
    assert driver.machine.state is State.WAITING


def test_a_strike_needs_a_frame_at_the_head() -> None:
    driver = sent(max_frame_rejections=1, poison_window_millis=0)
    driver.tell(events.Answered(Ok(0)))
    assert not of(actions.Latch, driver.tell(events.PeerClosed(1011, "")))


def test_a_close_during_a_send_is_a_strike() -> None:
    driver = connected(max_frame_rejections=1, poison_window_millis=0)
    assert of(actions.Latch, driver.tell(events.PeerClosed(1009, "too big")))


@pytest.mark.parametrize("row", [row for row in CONNECTION_ROWS if not row.terminal], ids=lambda row: row.what)
def test_29a_without_progress_the_next_connect_has_to_wait(row: Row) -> None:
    driver = sent()
    pause, _ = driver.next_connect(driver.tell(row.event))
    assert 100 <= pause < 200


@pytest.mark.parametrize(
    "row", [row for row in CONNECTION_ROWS if not row.terminal and not row.strike], ids=lambda row: row.what
)
def test_29a_after_progress_the_next_connect_is_at_once(row: Row) -> None:
    driver = sent(published=1)
    driver.tell(events.Answered(Ok(0)))
    assert driver.next_connect(driver.tell(row.event)) == (0, 0)


def test_rcn_01_a_server_that_closes_after_each_ack_gets_the_next_frame_on_a_new_connection() -> None:
    driver = connected()
    for fsn in range(5):
        driver.tell(events.RunSent(fsn), events.Answered(Ok(0)))
        driver.log.published_fsn = fsn + 1
        pause, endpoint = driver.next_connect(driver.tell(events.PeerClosed(1000, "")))
        assert (pause > 0, endpoint) == (fsn > 0, 0)  # the second such connection is worth no more than the first
        assert only(actions.SendRun, driver.tell(events.Connected(0))).first_fsn == fsn + 1


def test_rcn_02_an_unacked_frame_goes_out_again() -> None:
    driver = sent(published=3)
    driver.tell(events.Answered(Ok(1)), events.Lost("reset"))
    assert only(actions.SendRun, driver.tell(events.Connected(0))).first_fsn == 2


def test_rcn_04_the_pause_doubles_jitters_and_caps() -> None:
    pauses = []
    for seed in range(20):
        driver = Driver(seed=seed)
        driver.tell(events.Begin(None))
        pauses.append([driver.next_connect(driver.tell(TRANSPORT))[0] for _ in range(9)])
    for position, base in enumerate([100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]):
        found = [row[position] for row in pauses]
        assert all(base <= pause < 2 * base for pause in found)
        assert len(set(found)) > 10


def test_rcn_04_progress_makes_the_pause_short_again() -> None:
    driver = Driver(published=1)
    driver.tell(events.Begin(None))
    for _ in range(6):
        driver.next_connect(driver.tell(TRANSPORT))
    driver.tell(events.Connected(0), events.RunSent(1), events.Answered(Ok(0)))
    assert driver.next_connect(driver.tell(events.Lost("reset"))) == (0, 0)
    assert driver.next_connect(driver.tell(TRANSPORT))[0] < 200


def test_a_connection_alone_does_not_make_the_pause_short_again() -> None:
    driver = Driver(published=1)
    driver.tell(events.Begin(None))
    for _ in range(6):
        driver.next_connect(driver.tell(TRANSPORT))
    driver.replay(2)
    assert driver.next_connect(driver.tell(events.Lost("reset")))[0] >= 5_000


@pytest.mark.parametrize(("published", "stood", "short"), [(-1, 10_000, True), (-1, 9_999, False), (0, 10_000, False)])
def test_a_long_connection_that_owed_nothing_makes_the_pause_short_again(
    published: int, stood: int, short: bool
) -> None:
    driver = Driver()
    driver.tell(events.Begin(None))
    for _ in range(6):
        driver.next_connect(driver.tell(TRANSPORT))
    driver.tell(events.Connected(0))
    driver.log.published_fsn = published
    driver.pass_millis(stood)
    assert (driver.next_connect(driver.tell(events.Lost("reset")))[0] < 200) is short


def test_fov_02_a_round_has_no_pause_inside_and_tries_each_endpoint_once() -> None:
    driver = Driver("a", "b", "c")
    tried = [only(actions.Connect, driver.tell(events.Begin(None))).endpoint_index]
    tried += [only(actions.Connect, driver.tell(TRANSPORT)).endpoint_index for _ in range(2)]
    assert tried == [0, 1, 2]
    found = driver.tell(TRANSPORT)
    assert "all_endpoints_unreachable" in [event.kind for event in connection_events(found)]
    assert driver.next_connect(found)[1] == 0


@pytest.mark.parametrize("failures", [(REPLICA, REPLICA), (CATCHING_UP, REPLICA), (REPLICA, TRANSPORT)])
def test_fov_03_a_round_of_role_refusals_backs_off_like_any_other(failures: tuple[ConnectFailed, ...]) -> None:
    driver = Driver("a", "b")
    driver.tell(events.Begin(None))
    pauses = []
    for _ in range(7):
        driver.tell(failures[0])
        pauses.append(driver.next_connect(driver.tell(failures[1]))[0])
    assert all(
        base <= pause < 2 * base for pause, base in zip(pauses, (100, 200, 400, 800, 1600, 3200, 5000), strict=True)
    )


@pytest.mark.parametrize(
    ("hint", "at_least", "below"), [(None, 100, 200), (3_000, 3_000, 3_001), (60_000, 5_000, 5_001)]
)
def test_29a_retry_after_is_honoured_up_to_the_maximum(hint: int | None, at_least: int, below: int) -> None:
    driver = Driver()
    driver.tell(events.Begin(None))
    found = driver.tell(ConnectFailed(FailureKind.STATUS, "503", 503, retry_after_millis=hint))
    assert at_least <= driver.next_connect(found)[0] < below


def test_rcn_05_a_blocking_connect_ends_at_its_budget() -> None:
    driver = Driver("a", "b")
    found = driver.tell(events.Begin(2_500))
    limits = []
    while driver.machine.state is not State.FAILED:
        limits.append(only(actions.Connect, found).limit_millis)
        found = driver.tell(TRANSPORT)
        if driver.machine.state is State.WAITING:
            found = driver.timer()
    assert driver.now_millis == 2_500
    assert limits[0] == limits[1] == 2_500
    assert all(limit is not None and 1 <= limit <= 2_500 for limit in limits)
    error = latched(driver.actions)
    assert isinstance(error, ConnectError)
    assert error.tag == "never-connected-budget-exhausted"
    assert str(error).startswith(error.tag)
    assert "a: refused; b: refused" in str(error)


def test_rcn_05_a_slow_endpoint_does_not_lead_to_another_one_beyond_the_budget() -> None:
    driver = Driver("a", "b")
    driver.tell(events.Begin(1_000))
    driver.pass_millis(1_000)
    assert isinstance(latched(driver.tell(TRANSPORT)), ConnectError)


def test_rcn_06_a_401_after_a_connection_is_terminal_at_once() -> None:
    driver = sent("a", "b")
    driver.next_connect(driver.tell(events.Lost("reset")))
    found = driver.tell(ConnectFailed(FailureKind.AUTH, "no such user\n", 401))
    error = latched(found)
    assert isinstance(error, AuthError)
    assert error.status == 401
    assert str(error).startswith("ws-upgrade-failed: b refused the credentials")
    assert driver.tell(events.TimerDue(), events.Published()) == []


def test_a_401_is_tried_once_more_where_each_connect_has_a_token_of_its_own() -> None:
    refused = ConnectFailed(FailureKind.AUTH, "expired", 401)
    driver = sent("a", "b", renewable_token=True)
    assert driver.next_connect(driver.tell(events.Lost("reset")))[1] == 1
    found = driver.tell(refused)
    assert only(actions.Connect, found).endpoint_index == 1, "the same endpoint, without a pause"
    assert isinstance(latched(driver.tell(refused)), AuthError)


@pytest.mark.parametrize("between", [TRANSPORT, REPLICA, ConnectFailed(FailureKind.STATUS, "busy", 503)])
def test_a_401_behind_an_outage_is_one_of_a_new_token_and_has_its_second_try(between: ConnectFailed) -> None:
    """A token that runs out while an outage lasts: the provider is asked at each connect."""
    refused = ConnectFailed(FailureKind.AUTH, "expired", 401)
    driver = sent(renewable_token=True)
    driver.next_connect(driver.tell(events.Lost("reset")))
    driver.tell(refused)
    driver.next_connect(driver.tell(between))
    assert only(actions.Connect, driver.tell(refused)).endpoint_index == 0
    driver.replay(1)
    assert driver.machine.state is State.CONNECTED


def test_401s_that_alternate_with_an_outage_end_after_eight_and_a_token_that_was_taken_ends_the_count() -> None:
    refused = ConnectFailed(FailureKind.AUTH, "expired", 401)
    driver = sent(renewable_token=True)
    for taken in (True, False):
        driver.next_connect(driver.tell(events.Lost("reset")))
        for _ in range(7):
            assert only(actions.Connect, driver.tell(refused))
            driver.next_connect(driver.tell(TRANSPORT))
        if taken:
            driver.replay(1)
    assert isinstance(latched(driver.tell(refused)), AuthError)


def test_a_403_is_no_matter_of_the_tokens_age() -> None:
    driver = sent(renewable_token=True)
    driver.next_connect(driver.tell(events.Lost("reset")))
    assert isinstance(latched(driver.tell(ConnectFailed(FailureKind.AUTH, "no", 403))), AuthError)


def test_rcn_08_off_ends_after_one_round() -> None:
    driver = Driver("a", "b")
    driver.tell(events.Begin(0))
    driver.pass_millis(10)
    driver.tell(TRANSPORT)
    error = latched(driver.tell(TRANSPORT))
    assert isinstance(error, ConnectError)
    assert error.tag is None


def test_rcn_08_the_attempts_of_one_round_have_no_limit_of_time() -> None:
    assert only(actions.Connect, Driver().tell(events.Begin(0))).limit_millis is None


@pytest.mark.parametrize("failures", [(REPLICA, TRANSPORT), (TRANSPORT, REPLICA), (REPLICA, REPLICA)])
def test_a_role_mismatch_is_preferred_in_the_error(failures: tuple[ConnectFailed, ...]) -> None:
    driver = Driver("a", "b")
    driver.tell(events.Begin(0))
    driver.tell(failures[0])
    assert isinstance(latched(driver.tell(failures[1])), RoleMismatchError)


def test_rcn_12_an_outage_budget_brings_its_tag() -> None:
    driver = sent(outage_budget_millis=3_000)
    driver.pass_millis(50_000)
    driver.tell(events.Answered(Ok(0)))
    driver.pass_millis(2_000)
    driver.log.published_fsn = 1
    driver.next_connect(driver.tell(events.Lost("reset")))
    while driver.machine.state is not State.FAILED:
        driver.tell(TRANSPORT)
        if driver.machine.state is State.WAITING:
            driver.timer()
    assert driver.now_millis == 55_000, "the frame came 52 s behind"
    error = latched(driver.actions)
    assert isinstance(error, ConnectError)
    assert error.tag == "connection-lost-budget-exhausted"
    assert driver.machine.was_ever_connected
    assert connection_events(driver.actions)[-1].kind == "budget_exhausted"


def test_a_running_sender_does_not_give_up_by_time() -> None:
    driver = sent()
    driver.next_connect(driver.tell(events.Lost("reset")))
    for _ in range(1_000):
        driver.next_connect(driver.tell(TRANSPORT))
    assert driver.now_millis > 5_000_000
    driver.tell(events.Connected(0))
    assert driver.machine.state is State.CONNECTED


def test_rcn_13_a_401_reaches_the_handlers_after_it_was_latched() -> None:
    driver = Driver(published=4)
    driver.tell(events.Begin(None))
    found = driver.tell(ConnectFailed(FailureKind.AUTH, "no", 403))
    assert isinstance(found[0], actions.Latch)
    (event,) = server_errors(found)
    assert (event.category, event.policy, event.from_fsn, event.to_fsn) == ("security_error", "terminal", 0, 4)
    assert [event.kind for event in connection_events(found)] == ["auth_failed"]


def test_rcn_14_the_flag_is_set_with_the_first_connection_and_stays() -> None:
    driver = Driver()
    driver.tell(events.Begin(None))
    assert not driver.machine.was_ever_connected
    driver.tell(events.Connected(0))
    assert driver.machine.was_ever_connected
    driver.tell(events.Lost("reset"))
    assert driver.machine.was_ever_connected


def test_rcn_15_a_broken_log_is_terminal() -> None:
    driver = connected()
    error = StorageError("the segment is gone")
    found = driver.tell(events.StorageBroken(error))
    assert latched(found) is error
    assert server_errors(found)[0].category == "storage_error"
    assert only(actions.Disconnect, found)
    assert not of(actions.Connect, found)


def test_the_kinds_of_connection_events() -> None:
    driver = sent("a", "b", published=5)
    driver.tell(events.Answered(Ok(0)), events.Lost("reset"), events.Connected(0))
    driver.tell(events.RunSent(2), events.Answered(Ok(1)), events.PeerClosed(1001, "re\x00start"), TRANSPORT)
    driver.tell(events.Connected(0))
    found = [(one.kind, one.endpoint_index, one.previous_endpoint_index) for one in connection_events(driver.actions)]
    assert found == [
        ("connected", 0, None),
        ("disconnected", 0, None),
        ("failed_over", 1, 0),
        ("disconnected", 1, None),
        ("endpoint_attempt_failed", 0, None),
        ("reconnected", 1, 1),
    ]
    assert connection_events(driver.actions)[3].cause == "the server closed with code 1001: re start"
    assert connection_events(driver.actions)[-1].attempt == 2
    assert driver.machine.reconnects_succeeded == 2
    assert driver.machine.attempts == 4


def test_an_echo_of_what_ended_is_ignored() -> None:
    driver = Driver()
    assert driver.tell(events.TimerDue(), events.Connected(0), events.Lost("x"), TRANSPORT) == []
    driver.tell(events.Begin(None))
    assert driver.tell(events.Begin(None), events.TimerDue(), events.Answered(Ok(0)), events.Lost("x")) == []


def test_malformed_framing_names_the_endpoint_and_every_frame_that_is_kept() -> None:
    driver = sent("box:9000", published=9)
    driver.tell(events.Answered(Ok(3)))
    found = driver.tell(events.ProtocolBreach("server frame has RSV bits set"))
    error = latched(found)
    assert (error.from_fsn, error.to_fsn) == (4, 9)  # type: ignore[attr-defined]
    assert str(error).startswith(
        "box:9000 broke the WebSocket protocol: server frame has RSV bits set; FSN 4 to 9 kept"
    )
    assert not of(actions.Settle, found)


@pytest.mark.parametrize("progress", [False, True])
def test_ours_4_another_dictionary_is_another_connection_to_the_same_endpoint_at_once(progress: bool) -> None:
    """No WARN, no pause, no strike, whatever the connection has brought; the next loss is paced as ever."""
    driver = sent("a", "b", max_frame_rejections=1, poison_window_millis=0, backoff_initial_millis=5_000)
    if progress:
        driver.tell(events.Answered(Ok(0)))
    found = driver.tell(events.DictionaryRestarted())
    assert [type(action) for action in found] == [actions.Disconnect, actions.Report, actions.Connect]
    assert only(actions.Connect, found).endpoint_index == 0
    assert [event.kind for event in connection_events(found)] == ["disconnected"]
    assert driver.tell(events.DictionaryRestarted()) == []
    found = driver.tell(events.Connected(0))
    assert [event.kind for event in connection_events(found)] == ["reconnected"]
    assert driver.machine.reconnects_succeeded == 1
    lost = driver.tell(events.Lost("reset"))
    assert driver.next_connect(lost)[0] > 0


def test_ours_4_where_the_same_endpoint_is_gone_the_next_one_is_asked() -> None:
    driver = sent("a", "b")
    driver.tell(events.Answered(Ok(0)), events.DictionaryRestarted())
    assert only(actions.Connect, driver.tell(TRANSPORT)).endpoint_index == 1
