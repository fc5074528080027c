"""The user's say in what a refusal leads to: ``error_policy`` and ``category_policies`` (behaviour.md 6.2).

``error_policy(ErrorEvent)`` gives the name of a policy, or None for what the settings say (``event.policy``).
It runs on a thread of its own, ``spoolq-policy``, while the I/O thread waits for the answer at most
`limits.POLICY_ANSWER_MILLIS`, without a connection and without a lock.  So it may call into the sender and may
wait for whoever waits for the sender: the worst it can do is to be late, and then the settings count.  One that
raises, or answers something that cannot be done, is logged; the settings count.

`Decisions.ask` is called by the I/O thread and never waits; `close` by the one that closes the sender.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from spoolq.delivery import actions, events, policy
from spoolq.errors import ConfigError
from spoolq.events import ErrorEvent, SenderErrorCategory, SenderErrorPolicy
from spoolq.runtime.dispatcher import Dispatcher

_LOG = logging.getLogger("spoolq.errors")
_INBOX: Final = 16  # one question at a time; more only behind a resolver that does not come back

ErrorPolicy = Callable[[ErrorEvent], str | None]


def error_event(refusal: actions.ServerErrorEvent) -> ErrorEvent:
    """What handlers and the resolver are told of a refusal."""
    return ErrorEvent(
        SenderErrorCategory(refusal.category),
        SenderErrorPolicy(refusal.policy),
        refusal.status,
        refusal.server_text,
        refusal.message_sequence,
        refusal.from_fsn,
        refusal.to_fsn,
        datetime.now(UTC),
        refusal.tables,
    )


def check_callable(**given: object) -> None:
    """Handlers by keyword: what is neither None nor callable is a ConfigError now, not at the first event."""
    for keyword, handler in given.items():
        if handler is not None and not callable(handler):
            raise ConfigError(
                f"{keyword} takes a function that is called with each event, not {type(handler).__name__}", key=keyword
            )


def check_category_policies(given: Mapping[str, str] | None, *, can_drop: bool) -> dict[str, str]:
    """A copy, each entry checked.  Raises ConfigError."""
    found = {}
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(
            f"category_policies takes a dict of policies by category, not {type(given).__name__}",
            key="category_policies",
        )
    for category, chosen in (given or {}).items():
        if category not in policy.OVERRIDABLE:
            raise ConfigError(
                f"category_policies: {category!r} has no policy of its own; "
                f"{', '.join(sorted(policy.OVERRIDABLE))} may have one",
                key="category_policies",
            )
        name = policy.TERMINAL if chosen == "halt" else chosen
        if name not in policy.CHOICES:
            raise ConfigError(
                f"category_policies: {chosen!r} for {category} is no policy; take one of "
                f"{', '.join(sorted(policy.CHOICES))}, halt",
                key="category_policies",
            )
        if name == policy.DROP and not can_drop:
            raise ConfigError(
                f"category_policies: drop for {category} needs sf_dir: what is dropped is kept there as a dead letter",
                key="category_policies",
            )
        found[category] = name
    return found


class Decisions:
    """Asks one resolver; ``answered`` gets each answer, on the resolver's thread."""

    def __init__(self, error_policy: ErrorPolicy, answered: Callable[[events.Decided], None]) -> None:
        self._error_policy = error_policy
        self._answered = answered
        self._dispatcher: Dispatcher[actions.Decide] = Dispatcher(self._answer, _INBOX, "spoolq-policy")

    def ask(self, question: actions.Decide) -> None:
        """Queues a question; where nobody can be asked, what the settings say is the answer."""
        if not self._dispatcher.post(question):
            self._answered(events.Decided(question.number, None))

    def close(self) -> None:
        """Lets the resolver finish for a moment (`Dispatcher.close`)."""
        self._dispatcher.close()

    def _answer(self, question: actions.Decide) -> None:
        chosen = None
        try:
            chosen = self._chosen(question)
        finally:
            self._answered(events.Decided(question.number, chosen))

    def _chosen(self, question: actions.Decide) -> str | None:
        category, instead = question.event.category, question.event.policy
        try:
            said = self._error_policy(error_event(question.event))
        except BaseException:  # a SystemExit, too: it would end this thread and nobody else
            _LOG.exception("error_policy raised for %s; what the settings say is done: %s", category, instead)
            return None
        if said is None:
            return None
        name = policy.TERMINAL if said == "halt" else said
        if name in question.choices:
            return name
        _LOG.error(
            "error_policy answered %r for %s, which cannot be done here (%s can); what the settings say is done: %s",
            said,
            category,
            ", ".join(sorted(question.choices)),
            instead,
        )
        return None
