"""What must hold.  The judge knows what was published, handed to sockets, answered and settled; nothing else.

It reads along with the client: `took` is called for each thing that the client has read, in order, and
says what that must lead to.  The client has time until it next waits or connects (`settled_down`):
then the settled watermark must be exactly what the OKs cover, what ends a connection must have ended
it, and what is terminal must be latched.  Anything that it does without such a cause is `Wrong`.

Where the peer lies (an OK or an error about something that was never sent) there are bounds instead of
one value: nothing beyond what was handed over whole is settled, and what follows has to be one of the
things that behaviour.md 4.3 and 6.5 allow.

| judged          | against                                                                        |
|-----------------|--------------------------------------------------------------------------------|
| settled         | what the OKs read so far cover, at most what was handed over whole; with durable  |
|                 | acks each OK, in order, when all its tables are covered on this connection        |
| sent            | on each connection the frames from the first unsettled one, unchanged, within the cap |
| symbols         | what the server of that connection has been told                               |
| strikes, poison | behaviour.md 6.4, counted anew                                                 |
| pauses          | `pacing`                                                                       |
| budgets         | `outage`                                                                       |
| caps            | `caps`                                                                         |
| in flight       | `flight`                                                                       |
| silence         | with a watchdog: noticed in time, and nothing else is taken for it             |
| PINGs           | where something asks for them, at most one a period each                       |
| terminal errors | each has its cause in what the client read, and each cause has its error          |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from spoolq.columns.symbols import SymbolTable
from spoolq.errors import AuthError, ConnectError, DurableAckError, ServerRejection, SpoolqError, StorageError
from tests.sim import frames
from tests.sim.caps import Caps
from tests.sim.dictionaries import Dictionaries
from tests.sim.flight import Flight
from tests.sim.left import Left
from tests.sim.outage import LATE_MILLIS, Outage
from tests.sim.pacing import Pacing, Wrong
from tests.sim.view import CATEGORIES, DEFAULTS, Item, Question, View

if TYPE_CHECKING:
    from spoolq.delivery.actions import Decide
    from tests.sim.network import Wire
    from tests.sim.scenario import Scenario

BINARY: Final = 0x82
_PING: Final = 0x89
_LINGER_MILLIS: Final = 50
_OPENS_MILLIS: Final = 200  # what is held up and gets no answer goes out in the end
_TOKENS_MAX: Final = 8  # 401s between two tokens that were taken
_SILENCE_MILLIS_MAX: Final = 1_800_000
_NOT_WRITABLE: Final = 0x0C


class Judge:
    """See the module's text.  Call `start` before the first step, `another_sender` when one follows."""

    def __init__(self, scenario: Scenario, symbols: SymbolTable, counts: Counter[str], left: Left) -> None:
        self._scenario = scenario
        self._left = left
        self._symbols = symbols
        self.counts = counts
        self.trace: list[str] | None = None
        self.payloads: list[bytes] = []
        self.commits: list[int] = []
        self.letters: set[int] = set()  # frames that are kept as dead letters, and no more to be sent
        self.kept: set[int] = set()  # frames of which some sender kept a dead letter
        self.settled: list[int] = []  # every watermark there was
        self.dictionaries = Dictionaries(symbols)
        self.durable: set[int] = set()  # frames that are in some server's object store
        self.lied = False
        self.acked = -1
        self._low = -1  # what must be settled when the client has looked at everything it has read
        self.view: View | None = None
        self.stopping = False
        self.last_work_millis = 0
        self.work = 0  # bytes moved, frames published: what a poll may come back for

    def start(self, now: Callable[[], int], store: Any) -> None:
        """Where time and the log are read."""
        self._now, self._store = now, store
        self.another_sender()

    def begins_behind(self, fsn: int) -> None:
        """The watermark that the next sender finds is an older one."""
        self.say(f"the watermark that is left is FSN {fsn}, settled is FSN {self.acked}")
        self.counts["watermarks behind"] += 1
        self.acked = self._low = fsn
        self.settled = [one for one in self.settled if one <= fsn]
        self.kept |= self.letters
        self.letters = {one for one in self.letters if one <= fsn}  # those above go out again

    def another_sender(self) -> None:
        """It knows nothing of the one before but the log."""
        now = self._now()
        self.pacing = Pacing(self._scenario, now)
        self.flight = Flight()
        self.error: SpoolqError | None = None
        self.stopping = False
        self.outage = Outage(self._scenario, self._now)
        self.caps = Caps(self._scenario, self.payloads, self._symbols, self._left)
        self._strikes = [0, 0]  # certain, possible
        self._struck_millis = [0, 0]  # when the first of them was
        self._not_writables = 0  # in a row, without progress
        self._refusal = ""
        self._token_refused = False  # the last attempt
        self._tokens_refused = 0  # since one was taken
        self._patience: list[int] = [self._scenario.half_open_millis] * 2  # with silence: certain, possible
        self._refused: set[int] = set()
        self._ok_high = self.acked
        self._refusals: dict[int, str] = {}  # since the last connection
        self._droppable: dict[int, str] = {}  # frames whose refusal may make a dead letter of them, and its category
        self._must_save: int | None = None  # the one that must become one
        self._held = -1  # the one that may be sent when all before it is settled
        self._maybe_held: set[int] = set()
        self._must_latch = ""  # after a letter that could not be made, or by the resolver's choice
        self._may_latch: set[str] = set()  # the same, not for certain
        self._question: Question | None = None  # for the resolver; `number` when it was asked
        self._last_question = 0

    def say(self, text: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{self._now():>7} {text}")

    def worked(self) -> None:
        """Something moved: a poll may come back for it, and the loop may linger."""
        self.last_work_millis = self._now()
        self.work += 1

    def heard(self) -> None:
        """Bytes came."""
        self.worked()
        if self.view is not None:
            self.view.heard_millis = self._now()

    # -- the producer ----------------------------------------------------------------------------
    def published(self, fsn: int, payload: bytes) -> None:
        """`publish` returned."""
        if fsn != len(self.payloads):
            raise Wrong(f"published as FSN {fsn}, the next one is {len(self.payloads)}")
        self.payloads.append(payload)
        self.commits.append(0)
        self.dictionaries.of_frame.append(self.dictionaries.life)
        self.outage.published()
        self.worked()
        if self.trace is not None:
            self.say(f"published FSN {fsn}, {len(payload)} bytes")

    def begins_life(self) -> None:
        """The dictionary is about to begin anew."""
        self.say("the dictionary begins anew")
        if self.acked + 1 != len(self.payloads):
            raise Wrong(f"the dictionary begins anew and FSN {self.acked + 1} is not settled")
        self.dictionaries.begins_anew()
        self.counts["dictionaries that began anew"] += 1
        self.worked()

    # -- connecting ------------------------------------------------------------------------------
    def connects(self, endpoint: int) -> None:
        """The loop asks for a connection."""
        self.say(f"connects to {endpoint}")
        self.settled_down("connects")
        if self._question is not None:
            raise Wrong("a connect while the resolver is asked")
        self.outage.connects()
        if self.view is not None:
            raise Wrong("a connect while there is a connection")
        if self.error is not None:
            raise Wrong("a connect after a terminal error")
        cut = self._scenario.outage_budget_millis or self._scenario.begin_budget_millis is not None
        self.pacing.connects(endpoint, self._now(), not cut)

    def refused(self, endpoint: int, kind: str, retry_after_millis: int | None) -> None:
        """The connect failed."""
        self.counts[f"refusal: {kind}"] += 1
        self.say(f"refused: {kind}" + (f", Retry-After {retry_after_millis} ms" if retry_after_millis else ""))
        self._refusal = kind
        if kind != "auth 401":
            self._token_refused = False
        elif self._scenario.renewable_token and not self._token_refused:
            self._token_refused = True
            self._tokens_refused += 1
            if self._tokens_refused < _TOKENS_MAX:
                self._refusal = ""  # the next connect brings another token
                self.pacing.free()
        self._refusals[endpoint] = kind
        self._refused.add(endpoint)
        self.pacing.refused(self._now(), retry_after_millis or 0)

    def connected(self, wire: Wire, cap_nbytes: int | None) -> None:
        """The network gave a connection."""
        self.view = View(wire, self.acked + 1, cap_nbytes, self._now())
        self._may_latch = set()
        self.last_work_millis = self._now()
        self.counts["connects"] += 1
        self.say(f"connected to {wire.endpoint}, cap {cap_nbytes}, FSN {self.acked + 1} is the first")

    def catch_up(self, count: int) -> None:
        """So many dictionary messages go ahead on the connection that begins."""
        if self.view is not None:
            self.view.catch_up = count
        self.counts["catch-ups"] += count > 0
        self.counts["catch-up messages"] += count

    def bound(self) -> None:
        """The machine is told of the connection."""
        if self.view is not None:
            self.view.bound = True
            self.view.life = self.view.wire.life = self.dictionaries.life
        self.outage.bound(owed=self.acked + 1 < len(self.payloads))
        self._refusal, self._token_refused, self._tokens_refused = "", False, 0
        self._refusals.clear()

    # -- what the client sends -------------------------------------------------------------------
    def handed(self, wire: Wire, nbytes: int, messages: list[tuple[int, int, bytes]]) -> None:
        """The socket took bytes; these messages are whole now."""
        view = self._view_of(wire, "sends")
        view.handed_nbytes += nbytes
        self.worked()
        for _, first, payload in messages:
            if first == _PING:
                self._handed_ping(view)
            if first != BINARY:
                continue
            if self.error is not None:
                raise Wrong("a message is sent after a terminal error")
            if frames.is_data(payload):
                self._handed_frame(view, payload)
            else:
                view.catch_up_handed += 1
                if view.catch_up_handed > view.catch_up:
                    raise Wrong("a dictionary message that was not asked for")

    def has_room_again(self, wire: Wire) -> None:
        """The socket was full and takes more: that is a sign of life."""
        self._view_of(wire, "sends").handed_millis = self._now()

    def _handed_ping(self, view: View) -> None:
        scenario = self._scenario
        periods = [scenario.keepalive_millis] if scenario.durable else []
        periods += [scenario.half_open_millis // 2] if scenario.half_open_millis else []
        view.pings += 1
        self.counts["PINGs"] += 1
        if not periods or view.pings > 2 + (self._now() - view.since_millis) // min(periods) * len(periods):
            raise Wrong(f"{view.pings} PINGs in {self._now() - view.since_millis} ms")

    def _handed_frame(self, view: View, payload: bytes) -> None:
        fsn = view.handed_fsn + 1
        if view.catch_up_handed != view.catch_up:
            raise Wrong("a frame ahead of the dictionary")
        if fsn >= len(self.payloads):
            raise Wrong(f"something is sent behind FSN {fsn - 1}, the last one published")
        if payload != self.payloads[fsn]:
            raise Wrong(f"FSN {frames.trailer(payload)[0]} is sent where FSN {fsn} is due")
        if self.dictionaries.of_frame[fsn] != view.life:
            raise Wrong(f"FSN {fsn} is sent on a connection that was told another dictionary")
        if view.cap_nbytes is not None and len(payload) > view.cap_nbytes:
            raise Wrong(f"FSN {fsn} has {len(payload)} bytes, the cap is {view.cap_nbytes}")
        if self.acked + 1 < self._held <= fsn and not self.lied:
            raise Wrong(f"FSN {fsn} is sent, FSN {self._held} was to be held back, settled is FSN {self.acked}")
        answered = self._answered(view)
        if self._left.group_of(fsn) != (fsn, fsn):
            view.may_have_opened = True  # a group is not held up in its middle
        most = self.flight.most(answered + 1 - view.fsn_at_zero)
        if self._now() - view.moved_millis >= _OPENS_MILLIS:
            view.may_have_opened = True
        if most is not None and fsn - answered > most and not (view.vague or view.may_have_opened):
            raise Wrong(f"FSN {fsn} is sent behind a loss, FSN {answered} is answered: {most} frames may be in flight")
        view.handed_fsn = fsn
        view.handed_millis = view.moved_millis = self._now()
        self.counts["frames sent"] += 1
        self.counts["frames sent again"] += self.commits[fsn] > 0
        if self.trace is not None:
            self.say(f"  -> FSN {fsn}")

    def broke(self, wire: Wire) -> None:
        """A send failed."""
        self._view_of(wire, "sends").broken = True

    # -- what the server gets --------------------------------------------------------------------
    def committed(self, payload: bytes) -> None:
        """A server has it for good."""
        if frames.is_data(payload):
            self.commits[frames.trailer(payload)[0]] += 1

    def storage_breaks(self) -> None:
        """The log cannot be read: the end, and no reason to connect again."""
        self.say("the log cannot be read")
        if self.view is not None:
            self._latches(self.view, "storage_error")
            self.view.must_latch = "storage_error"

    def made_durable(self, payload: bytes) -> None:
        """A server has it in its object store."""
        self.durable.add(frames.trailer(payload)[0])

    # -- what the client reads -------------------------------------------------------------------
    def lies(self, wire: Wire) -> None:
        """The server of this connection says something that is not so."""
        self.lied = True
        if self.view is not None and self.view.wire is wire:
            self.view.vague = True

    def took(self, wire: Wire, item: Item) -> None:
        """The client has read it."""
        view = self._view_of(wire, "reads")
        kind = item.kind
        self.worked()
        if self.trace is not None:
            self.say(f"  <- {kind}" + "".join(f" {value}" for value in item[1:] if value))
        if view.ended:
            return
        if kind == "ok":
            self._took_ok(view, item)
        elif kind == "durable":
            if self._scenario.durable:
                for table, transaction in item.entries:
                    view.marks[table] = max(transaction, view.marks.get(table, 0))
                self._pop(view)
        elif kind == "error":
            self._took_error(view, item)
        elif kind == "bad":
            self._ends(view, "garbage", strike=True)
        elif kind == "close":
            self.counts[f"close: {item.code or 'no code'}"] += 1
            self._ends(view, f"close {item.code}", strike=item.code not in (1000, 1001))
        elif kind == "breach":
            self.counts["breaches"] += 1
            self._latches(view, "protocol_violation")
        elif kind in ("fin", "reset"):
            self.counts[f"loss: {kind}"] += 1
            self._ends(view, kind, strike=False)

    def _took_ok(self, view: View, item: Item) -> None:
        named = view.fsn_at_zero + item.sequence - view.catch_up
        if named > view.handed_fsn and not view.vague:
            raise AssertionError(f"the simulated server answers for FSN {named}, which it cannot have")
        fsn = self._left.settled_by(named)
        first, commit = self._left.group_of(named)
        self.counts["OKs inside a group"] += first <= named < commit
        if not self._scenario.durable:
            self._covered(view, fsn)
            return
        self._patience[0] = self._scenario.half_open_millis
        if not view.vague:
            view.answered_fsn = max(view.answered_fsn, fsn)
            if fsn > self._ok_high:
                self._ok_high = fsn
                self._strikes = [0, self._strikes[1] if self.lied else 0]  # a lie may have gone higher before
        else:
            self._strikes[0] = 0
        if (
            view.waiting and fsn <= view.waiting[-1][0] and not view.vague
        ):  # an early commit: it counts with the OK before it
            wanted = view.waiting[-1][1]
            wanted |= {table: max(mark, wanted.get(table, mark)) for table, mark in item.entries}
        else:
            view.waiting.append((fsn, dict(item.entries)))
        self._pop(view)

    def _pop(self, view: View) -> None:
        """OKs are durable in their order, each when all its tables are (behaviour.md 4.4)."""
        waiting, marks = view.waiting, view.marks
        while waiting and all(marks.get(table, 0) >= wanted for table, wanted in waiting[0][1].items()):
            self._covered(view, waiting.popleft()[0])

    def _covered(self, view: View, fsn: int) -> None:
        view.ok_fsn = max(view.ok_fsn, fsn)
        view.answered_fsn = max(view.answered_fsn, fsn)
        if view.vague:
            return
        if fsn > self._low:
            self._low = fsn
            view.progressed = True
            self._progressed()

    def _progressed(self) -> None:
        self._strikes = [0, 0]
        self.caps.progressed()

    def _took_error(self, view: View, item: Item) -> None:
        category = CATEGORIES.get(item.status, "unknown")
        fsn = view.fsn_at_zero + item.sequence - view.catch_up
        first, _ = self._left.group_of(fsn)
        policy = self._policy(view, category, fsn)
        self.counts[f"rejection: {item.status:02x} {policy}"] += 1
        if view.vague:
            view.may_latch.add("protocol_violation")  # it may seem to skip frames
            if policy == "drop":
                self._maybe_held.add(fsn)
            if policy == "terminal":
                view.may_latch.add(category)
        elif self._answered(view) + 1 < first and fsn <= view.handed_fsn:
            self._latches(view, "protocol_violation")
            return
        elif self._scenario.decide_millis is not None and category in DEFAULTS:
            self._asks_about(view, item, fsn, category, policy)
            return
        elif policy == "terminal":
            self._latches(view, category)
            return
        elif policy == "drop" and fsn > self._low + 1:  # what is before it is not durable yet
            self._held = fsn
            self._ends(view, f"error {item.status:02x}, to be dropped later", strike=False)
            return
        elif policy == "drop":
            self._must_save = fsn
            self._ends(view, f"error {item.status:02x}, to be dropped", strike=False)
            return
        if item.status == _NOT_WRITABLE:
            self._not_writable(view)
        else:
            self._ends(view, f"error {item.status:02x}", strike=True)

    def _policy(self, view: View, category: str, fsn: int) -> str:
        """What the settings say; only a frame that the server named exactly can be dropped (behaviour.md 6.2)."""
        policy = DEFAULTS.get(category, "retriable")
        chosen = self._scenario.policies.get(category, policy) if category in DEFAULTS else policy
        if chosen != "drop":
            return chosen
        if not self._is_droppable(view, fsn):
            return policy
        self._droppable[fsn] = category
        if view.vague and policy == "terminal":
            view.may_latch.add(category)  # what it names may not be the oldest frame
        return chosen

    def _is_droppable(self, view: View, fsn: int) -> bool:
        """Not one of a group: the others would land as half a transaction."""
        there = self._scenario.letters and view.fsn_at_zero <= fsn <= view.handed_fsn
        return there and self._left.group_of(fsn) == (fsn, fsn)

    def _asks_about(self, view: View, item: Item, fsn: int, category: str, policy: str) -> None:
        """The resolver is asked, without a connection; until it has answered nothing follows."""
        choices = {"terminal", "retriable", "retriable_other"}
        if self._is_droppable(view, fsn):
            choices.add("drop")
            self._droppable[fsn] = category
        self._question = Question(view, item, fsn, category, policy, frozenset(choices))
        self._ends(view, f"error {item.status:02x}, to be decided", strike=False)

    def asks(self, asked: Decide) -> None:
        """The loop passes a question on."""
        question = self._question
        self.say(f"asks about FSN {asked.event.from_fsn}: {asked.event.policy}, or {', '.join(sorted(asked.choices))}")
        if self.view is not None:
            raise Wrong("the resolver is asked while the connection is there")
        if question is None or question.number:
            raise Wrong("the resolver is asked, and there is nothing to ask about")
        if (asked.event.policy, asked.choices) != (question.policy, question.choices):
            raise Wrong(f"the resolver may choose {sorted(asked.choices)}, it should be {sorted(question.choices)}")
        if asked.number <= self._last_question:
            raise Wrong(f"question {asked.number} has the number of an older one")
        question.number = self._last_question = asked.number
        question.asked_millis = self._now()
        self.counts["questions"] += 1

    def answered(self, number: int, chosen: str | None) -> None:
        """The resolver's answer is told to the machine."""
        question = self._question
        if question is None or number != question.number:
            self.counts["answers that came too late"] += 1
            return
        self._decided(question, question.outcome(chosen))

    def gives_up_asking(self) -> None:
        """The machine is told that the time for an answer is over, if it waits for one."""
        question = self._question
        if question is None or not question.number:
            return
        if self._now() - question.asked_millis < (self._scenario.decide_millis or 0):
            raise Wrong("the resolver has more time")
        self.counts["questions without an answer"] += 1
        self._decided(question, question.policy)

    def _decided(self, question: Question, policy: str) -> None:
        view = question.view
        self._question = None
        self.outage.decided()
        self.counts[f"decided: {policy}"] += 1
        self.say(f"decided: {policy}")
        if policy == "terminal":
            self._must_latch = question.category
            return
        if policy != "drop":
            self._strike(view)
            self._must_latch, self._may_latch = view.must_latch, view.may_latch
        elif question.fsn > self.acked + 1:
            self._held = question.fsn
        else:
            self._must_save = question.fsn
        if view.owed_nothing_before:
            self.outage.begins()
        self._pause_begins(view, policy)

    def _not_writable(self, view: View) -> None:
        if self._was_worth(view):
            self._not_writables = 0
        self._not_writables += not view.vague  # what it names may be settled already: then it is only reported
        self._ends(view, "error 0c", strike=False)
        if self._not_writables <= 1 or view.vague:
            self.pacing.free()
            view.least_millis = 0
        else:
            view.least_millis = self.pacing.base_millis(self._not_writables - 1)

    def _ends(self, view: View, why: str, *, strike: bool) -> None:
        """The connection is over; whether it also counts against the frame at the head."""
        if view.vague:
            view.maybe_ended = why
        else:
            view.ended = why
        if strike:
            self._strike(view)

    def _strike(self, view: View) -> None:
        now, scenario = self._now(), self._scenario
        certain = not view.vague and view.handed_nbytes > 0 and self._answered(view) + 1 < len(self.payloads)
        for which in (0, 1) if certain else (1,):
            if not self._strikes[which]:
                self._struck_millis[which] = now
            self._strikes[which] += 1
            enough = self._strikes[which] >= scenario.max_frame_rejections
            if enough and now - self._struck_millis[which] >= scenario.poison_window_millis:
                view.may_latch.add("protocol_violation")
                if which == 0:
                    view.must_latch = "protocol_violation"
        if certain:
            self.counts["strikes"] += 1
            view.least_millis = self.pacing.base_millis(self._strikes[0])

    def _answered(self, view: View) -> int:
        """The newest frame with an answer on this connection."""
        return max(self._low, view.answered_fsn)

    def _latches(self, view: View, category: str) -> None:
        """It is the end of the sender."""
        view.may_latch.add(category)
        if view.vague:
            view.maybe_ended = category
        else:
            view.ended = view.must_latch = category

    # -- what the client does about it -----------------------------------------------------------
    def settles(self, fsn: int) -> None:
        """`acknowledge` is called."""
        view = self.view
        self.say(f"settles FSN {fsn}")
        if view is None:
            self._settles_letter(fsn)
            return
        if self.error is not None:
            raise Wrong(f"FSN {fsn} is settled after a terminal error")
        if fsn > view.handed_fsn:
            raise Wrong(f"FSN {fsn} is settled, the last one handed over is FSN {view.handed_fsn}")
        if fsn > view.ok_fsn:
            raise Wrong(f"FSN {fsn} is settled, the server said OK up to FSN {view.ok_fsn}")
        if fsn <= self.acked:
            raise Wrong(f"FSN {fsn} is settled again")
        if fsn != self._left.group_of(fsn)[1]:
            raise Wrong(f"FSN {fsn} is settled, and its transaction has not ended")
        if not self.lied and not all(self.commits[self.acked + 1 : fsn + 1]):
            raise Wrong(f"FSN {self.acked + 1} to {fsn} are settled, no server has all of them")
        if self._scenario.durable and not self.lied and not self.durable.issuperset(range(self.acked + 1, fsn + 1)):
            raise Wrong(f"FSN {self.acked + 1} to {fsn} are settled, not all of them are durable")
        self.acked = fsn
        self._ok_high = max(self._ok_high, fsn)
        self.settled.append(fsn)
        self._patience = [self._scenario.half_open_millis] * 2
        self.outage.settled(owed=fsn + 1 < len(self.payloads))
        if view.vague:  # when it was read is not known
            view.progressed = True
            self._low = max(self._low, fsn)
            self._strikes[0] = 0
            self.caps.progressed()

    def saves_letter(self, first: int, last: int, fails: bool) -> None:
        """A dead letter is made of the frame, or cannot be made."""
        self.say(f"makes a dead letter of FSN {first}" + (", in vain" if fails else ""))
        if self.view is not None:
            raise Wrong("a dead letter is made while the connection is there")
        if not first == last == self.acked + 1 or first not in self._droppable:
            raise Wrong(f"FSN {first} to {last} become a dead letter, FSN {self.acked} is settled")
        self._must_save = None
        self.counts["dead letters"] += not fails
        if fails:
            self._must_latch = self._droppable[first]
        else:
            self.letters.add(first)

    def _settles_letter(self, fsn: int) -> None:
        if fsn != self.acked + 1 or fsn not in self.letters:
            raise Wrong(f"FSN {fsn} is settled without a connection")
        self.acked = self._low = fsn
        self._ok_high = max(self._ok_high, fsn)
        self.settled.append(fsn)
        self.flight.dropped()
        self._patience = [self._scenario.half_open_millis] * 2
        self.outage.begins()  # there is no connection
        self._droppable.clear()
        self._strikes = [0, 0]
        self._not_writables = 0
        self.caps.progressed()

    def latches(self, error: SpoolqError) -> None:
        """A terminal error."""
        self.say(f"latches {type(error).__name__}: {error}")
        if self.error is not None:
            raise Wrong("a second terminal error")
        self.error = error
        match error:
            case AuthError():
                kind, right = "auth", self._refusal.startswith("auth")
            case DurableAckError():
                kind, right = "durable", list(self._refusals.values()).count("durable") == self._scenario.endpoints
            case ConnectError(tag=None):
                once = self._scenario.begin_budget_millis == 0 and not self.outage.ever_connected
                kind, right = "one round", once and len(self._refused) == self._scenario.endpoints
            case ConnectError():
                kind, right = str(error.tag), self.outage.is_used_up()
            case ServerRejection(category="frame_too_large"):
                kind, right = error.category, self._no_cap_is_enough()
            case ServerRejection():
                possible = {self._must_latch, *self._may_latch} if self.view is None else self.view.may_latch
                kind, right = error.category, error.category in possible
            case StorageError():
                kind, right = "storage", self.view is not None and self.view.must_latch == "storage_error"
            case _:
                kind, right = type(error).__name__, False
        self.counts[f"terminal: {kind}"] += 1
        if not right:
            raise Wrong(f"a terminal error without its cause: {error}")

    def closed(self, wire: Wire, unread: bool) -> None:
        """The client closes its end; ``unread``: there is something whole that it has not read."""
        view = self._view_of(wire, "closes")
        now = self._now()
        why = view.ended or view.maybe_ended or ("a send that failed" if view.broken and view.bound else "")
        if not why and self.caps.is_too_small(view.cap_nbytes, self.acked + 1):
            why = "a cap that is too small"
            self.counts["caps too small"] += 1
            self.caps.found(wire.endpoint, now)
        if why in ("", "a cap that is too small") and view.bound and view.life != self.dictionaries.life:
            why, view.least_millis = why or "an older dictionary", 0
            self.pacing.free()
            self.counts["connections left for a new dictionary"] += 1
        silent = now - max(view.heard_millis, view.since_millis)
        if self._patience[0] and silent >= self._patience[0] - 1:
            if not why:
                why = "silence"
                self.counts["connections given up as half-open"] += 1
                self.counts["the same, after a longer time"] += self._patience[0] > self._scenario.half_open_millis
            if why == "silence" and not self.lied:
                self._patience[0] = min(2 * self._patience[0], _SILENCE_MILLIS_MAX)
            self._patience[1] = min(2 * self._patience[1], _SILENCE_MILLIS_MAX)
        self.counts["groups cut by the end of a connection"] += bool(wire.session.open)
        self.say(f"closes {wire.endpoint}: {why or ('stopped' if self.stopping else 'no reason')}")
        if not (why or self.stopping or self.error is not None):
            raise Wrong("a connection is closed that nothing is wrong with")
        if view.must_latch and self.error is None:
            raise Wrong(f"a connection is closed and {view.must_latch} is not latched")
        if unread and why == "a send that failed":
            raise Wrong("a send failed, and what had come by then is thrown away")
        self._settled_right(view)
        self.view = None
        view.owed_nothing_before = not self.outage.runs
        self.outage.owes()
        self._low = self.acked
        if not view.bound:  # its dictionary does not fit: that is a refusal
            self._refused.add(wire.endpoint)
            self.pacing.refused(now, 0)
            return
        self._pause_begins(view, why)

    def _pause_begins(self, view: View, why: str) -> None:
        now, owed = self._now(), self.acked + 1 < len(self.payloads)
        ours = why in ("a cap that is too small", "drop") or "to be dropped" in why
        worth = view.vague or self._was_worth(view) or (ours and view.progressed)
        if worth or (not owed and now - view.since_millis >= 2 * self._scenario.backoff_max_millis):
            self._not_writables = min(self._not_writables, int(why == "error 0c"))
            self.pacing.progressed(now)
        least = view.least_millis
        if least is None:
            least = 0 if worth or not owed else self.pacing.base_millis(1)
        self.pacing.ended(now, why, least)
        if why == "an older dictionary":  # no loss
            return
        answered = self._answered(view)
        either = view.life != self.dictionaries.life  # or that: then it was no loss
        self.flight.ended(
            None if view.vague or either else answered + 1 - view.fsn_at_zero,
            0 if either else self.acked + 1 - view.fsn_at_zero,
            in_flight=max(0, view.handed_fsn - answered),
            drained=answered + 1 >= len(self.payloads),
        )

    def _was_worth(self, view: View) -> bool:
        """Whether the next connection need not wait."""
        long = self._now() - view.since_millis >= 2 * self._scenario.backoff_max_millis
        settled = max(self._low, self.acked) + 1 - view.fsn_at_zero
        return settled > 0 and (long or self.flight.grew(settled))

    def waits(self, timeout_millis: int | None) -> None:
        """The loop is about to wait."""
        self.settled_down("waits")
        if self.error is not None:
            raise Wrong("it waits after a terminal error")
        now, slack = self._now(), self._scenario.oversleep_millis + 10
        question = self._question
        if question is not None and now - question.asked_millis > (self._scenario.decide_millis or 0) + slack:
            raise Wrong("it waits for an answer beyond its time")
        if question is None and timeout_millis != 0 and self.outage.left_millis() < -slack:  # 0: only a look
            raise Wrong("it waits beyond its budget")
        if self.view is not None and self._scenario.half_open_millis:
            self._notices_silence(self.view, now)
        timers = self._scenario.half_open_millis or self._scenario.durable or self.outage.left_millis() <= 1
        polls = timeout_millis == 1 and not timers
        if self.view is not None and polls and now - self.last_work_millis > _LINGER_MILLIS + slack:
            raise Wrong(f"it polls {now - self.last_work_millis} ms after the last work")

    def _notices_silence(self, view: View, now: int) -> None:
        silent = now - max(view.heard_millis, view.handed_millis)
        late = 2 * self._scenario.oversleep_millis + LATE_MILLIS
        if view.handed_fsn > self.acked and silent > self._patience[1] + late:
            raise Wrong(f"nothing came for {silent} ms, frames wait, and it is not noticed")

    def sleeps(self, room: bool) -> None:
        """The loop waits until something comes; every frame has been told.  ``room``: its socket takes more."""
        view = self.view
        if view is None or view.maybe_ended or not room:
            return
        if view.life != self.dictionaries.life:
            raise Wrong("it sleeps on a connection that was told an older dictionary")
        fsn = view.handed_fsn + 1
        if fsn == self._held or fsn in self._maybe_held or self._may_be_held_up(view):
            return
        too_large = (
            view.cap_nbytes is not None and fsn < len(self.payloads) and len(self.payloads[fsn]) > view.cap_nbytes
        )
        if fsn < len(self.payloads) and not too_large:
            raise Wrong(f"it sleeps, and FSN {fsn} is not sent")
        if too_large and self._left.group_of(fsn)[0] == self.acked + 1:
            raise Wrong(f"it sleeps where FSN {fsn} is above the cap, and nothing is before it")

    def _may_be_held_up(self, view: View) -> bool:
        """Whether more than half of what may be in flight is."""
        if not self.flight.may_be_limited():
            return False
        answered = self.acked if view.vague else self._answered(view)
        return 2 * (view.handed_fsn - answered) > max(1, 2 * (answered + 1 - view.fsn_at_zero))

    def settled_down(self, where: str) -> None:
        """Everything that was read has been looked at."""
        if self.error is None and self._refusal.startswith("auth"):
            raise Wrong(f"it {where} after its credentials were refused")
        if self._must_latch and self.error is None:
            raise Wrong(f"it {where} and a letter that could not be made has not latched {self._must_latch}")
        if self._must_save is not None:
            raise Wrong(f"it {where} and FSN {self._must_save} is no dead letter")
        if self._question is not None and not self._question.number:
            raise Wrong(f"it {where} and has not asked about FSN {self._question.fsn}")
        if self.acked + 1 in self.letters:
            raise Wrong(f"it {where} and FSN {self.acked + 1}, a dead letter, is not settled")
        view = self.view
        if view is None:
            return
        if view.wire.overlooked:
            raise Wrong(f"it {where} and has not looked at what came with the 101")
        if view.must_latch and self.error is None:
            raise Wrong(f"it {where} and has not latched {view.must_latch}")
        if view.ended or view.broken:
            raise Wrong(f"it {where} and keeps a connection that was ended by {view.ended or 'a send that failed'}")
        self._settled_right(view)

    def _settled_right(self, view: View) -> None:
        if self.acked < self._low and not view.vague and self.error is None:
            raise Wrong(f"settled is FSN {self.acked}, the OKs cover FSN {self._low}")

    # -- helpers ---------------------------------------------------------------------------------
    def _view_of(self, wire: Wire, what: str) -> View:
        if self.view is None or self.view.wire is not wire:
            raise Wrong(f"it {what} on a connection that is not the present one")
        return self.view

    def _no_cap_is_enough(self) -> bool:
        now, view = self._now(), self.view
        if view is not None and self.caps.is_too_small(view.cap_nbytes, self.acked + 1):
            self.caps.found(view.wire.endpoint, now)
        return self.caps.no_way_is_left(now)
