"""Faults by script: one immutable `Script` per connection says where it goes wrong.  Data only.

    QwpServer(script=[Script(drop=Drop(after_frames=3)), Script()])

The n-th script is for the server's n-th connection, the last one for all that follow.  Frames are the binary
frames of that connection, counted from 0; ``after_frames=n`` means: when n of them have been processed, 0: right
behind the upgrade.  The same as JSON: `to_json` and `from_json`, one object a script, the names as here, fields
that are left out as in a `Script()`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from types import NoneType
from typing import Any, Final, Literal, get_args, get_type_hints

from spoolq.errors import ConfigError
from spoolq.qwp.layout import Status

Pairs = tuple[tuple[str, str], ...]

_STATUSES: Final = (200, 999)  # of HTTP, 1xx are no answers
_BYTE_MAX: Final = 0xFF
_CLOSE_CODE_MAX: Final = 0xFFFF
_NO_ERRORS: Final = (Status.OK, Status.DURABLE_ACK)
_AHEAD_MAX: Final = 1 << 62  # the sum is an int64


def _check(low: int = 0, high: int | None = None, **values: int | None) -> None:
    """Raises ConfigError for a number that nothing could come of."""
    for name, value in values.items():
        if value is not None and (value < low or (high is not None and value > high)):
            wanted = f"{low} or more" if high is None else f"{low} to {high}"
            raise ConfigError(f"{name} is {value}; it takes {wanted}")


AnswerKind = Literal[
    "garbage",
    "empty",
    "trailing",
    "text",
    "masked",
    "fragmented",
    "rsv",
    "non_minimal",
    "huge",
    "long_text",
    "half",
    "durable",
    "close_1",
]


@dataclass(frozen=True, slots=True)
class Refuse:
    """The upgrade is answered with this; ``role`` becomes ``X-QuestDB-Role``."""

    status: int
    role: str | None = None
    retry_after_seconds: int | None = None
    body: str = ""
    headers: Pairs = ()

    def __post_init__(self) -> None:
        _check(*_STATUSES, status=self.status)
        _check(retry_after_seconds=self.retry_after_seconds)


@dataclass(frozen=True, slots=True)
class Reject:
    """Frame ``frame`` is refused with an error frame; the rules of wire.md 5.2 follow.

    ``ahead``: the error frame names a sequence higher by that.
    """

    frame: int
    status: int = Status.INTERNAL_ERROR
    text: str = "rejected by script"
    ahead: int = 0

    def __post_init__(self) -> None:
        _check(frame=self.frame)
        _check(1, _BYTE_MAX, status=self.status)
        _check(-_AHEAD_MAX, _AHEAD_MAX, ahead=self.ahead)
        if self.status in _NO_ERRORS:
            raise ConfigError(f"status is {self.status}, which is no error")


@dataclass(frozen=True, slots=True)
class Drop:
    """The TCP connection ends without a CLOSE: exactly one of the first three is given.

    ``after_nbytes`` counts what the client sent behind the upgrade; ``mid_frame=n`` ends while frame n arrives,
    before it has an effect.  ``before_ack``: acks that are due do not go out.  ``reset``: RST instead of FIN.
    """

    after_frames: int | None = None
    after_nbytes: int | None = None
    mid_frame: int | None = None
    before_ack: bool = False
    reset: bool = False

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.after_frames, self.after_nbytes, self.mid_frame)) != 1:
            raise ConfigError("a Drop takes exactly one of after_frames, after_nbytes, mid_frame")
        _check(after_frames=self.after_frames, after_nbytes=self.after_nbytes, mid_frame=self.mid_frame)


@dataclass(frozen=True, slots=True)
class Close:
    """A CLOSE frame with ``code`` (None: empty payload), pending acks before it."""

    after_frames: int
    code: int | None = 1000
    reason: str = ""

    def __post_init__(self) -> None:
        _check(after_frames=self.after_frames)
        _check(0, _CLOSE_CODE_MAX, code=self.code)


@dataclass(frozen=True, slots=True)
class Answer:
    """In place of the first OK that covers frame ``frame`` the client gets this.

    garbage       a binary frame with the byte FF            text         the OK as a text frame
    empty         a binary frame of no bytes                 masked       the OK with a mask
    trailing      the OK with a byte more                    fragmented   the OK in two fragments
    long_text     an error whose text has 1,025 bytes        rsv          the OK with an RSV bit
    huge          a binary frame of 16 MiB of zeros          non_minimal  the OK with a 16-bit length
    half          the first half of the OK, then the end of the connection
    durable       a durable ack that nobody asked for, then the OK
    close_1       a CLOSE frame with one byte of payload, which no code fits in
    """

    frame: int
    kind: AnswerKind

    def __post_init__(self) -> None:
        _check(frame=self.frame)
        if self.kind not in get_args(AnswerKind):
            raise ConfigError(f"kind is {self.kind!r}; it takes one of {', '.join(get_args(AnswerKind))}")


@dataclass(frozen=True, slots=True)
class Script:
    """What goes wrong on one connection; the default is nothing.

    Upgrade
        refuse              a status instead of 101
        silent              no answer at all; the connection stays open
        upgrade_raw         these bytes (latin-1) instead of an answer
        upgrade_headers     headers of the 101: set to the text, or left out for None
        upgrade_nbytes_max  the connection ends behind that many bytes of the answer
        cap_nbytes          a smaller cap: told, and held to
    Acks
        no_ack              no OK and no durable ack
        ack_delay_millis    every response waits that long
        ack_every           OKs only for whole multiples of that many frames
        ack_ahead           OKs name a sequence higher by that
        ack_twice           every OK comes twice
        ack_swapped         OKs change places in pairs; one that has no second within 20 ms goes alone
        ack_negative        every OK has the sequence -1
        no_durable_ack      durable acks are granted and never come
    Frames and end
        reject              frames to refuse
        answers             odd responses
        drop, close         the end
        trickle_millis      what we send behind the upgrade goes out a byte at a time, with that pause
    """

    refuse: Refuse | None = None
    silent: bool = False
    upgrade_raw: str | None = None
    upgrade_headers: tuple[tuple[str, str | None], ...] = ()
    upgrade_nbytes_max: int | None = None
    cap_nbytes: int | None = None
    no_ack: bool = False
    ack_delay_millis: int = 0
    ack_every: int = 1
    ack_ahead: int = 0
    ack_twice: bool = False
    ack_swapped: bool = False
    ack_negative: bool = False
    no_durable_ack: bool = False
    reject: tuple[Reject, ...] = ()
    answers: tuple[Answer, ...] = ()
    drop: Drop | None = None
    close: Close | None = None
    trickle_millis: int = 0

    def __post_init__(self) -> None:
        _check(1, ack_every=self.ack_every)
        _check(-_AHEAD_MAX, _AHEAD_MAX, ack_ahead=self.ack_ahead)
        _check(ack_delay_millis=self.ack_delay_millis, trickle_millis=self.trickle_millis)
        _check(upgrade_nbytes_max=self.upgrade_nbytes_max, cap_nbytes=self.cap_nbytes)
        try:
            (self.upgrade_raw or "").encode("latin-1")
        except UnicodeEncodeError as error:
            raise ConfigError(f"upgrade_raw has {error.object[error.start]!r}, which is no byte (latin-1)") from None
        frames = [reject.frame for reject in self.reject]
        if len(frames) != len(set(frames)):
            raise ConfigError("reject names a frame twice; only the first would count")

    def rejection(self, frame: int) -> tuple[int, str, int] | None:
        """Status, text and sequence for a frame, or None."""
        return next(((r.status, r.text, frame + r.ahead) for r in self.reject if r.frame == frame), None)


HONEST: Final = Script()


def for_connection(scripts: Sequence[Script], index: int) -> Script:
    """The script of the n-th connection."""
    return scripts[min(index, len(scripts) - 1)] if scripts else HONEST


def to_json(scripts: Sequence[Script]) -> str:
    """As `from_json` reads it; fields at their default are left out."""
    return json.dumps([_changed(script) for script in scripts], indent=1)


def _changed(script: Script) -> dict[str, Any]:
    return {name: value for name, value in asdict(script).items() if value != getattr(HONEST, name)}


def from_json(text: str) -> tuple[Script, ...]:
    """Scripts from a JSON list of objects (or one object); raises ConfigError that names the place."""
    try:
        found = json.loads(text, object_pairs_hook=_without_doubles)
    except ConfigError:  # a ValueError, too
        raise
    except ValueError as error:  # also a number of more digits than Python reads
        raise ConfigError(f"the script is not JSON: {error}") from None
    except RecursionError:
        raise ConfigError("the script is not JSON that can be read: it is nested too deep") from None
    return tuple(
        _read(Script, item, f"script[{n}]") for n, item in enumerate(found if isinstance(found, list) else [found])
    )


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose names may come once each: of two Python would drop the first without a word."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ConfigError(
            f"the script says {next(name for name in names if names.count(name) > 1)!r} twice in one object"
        )
    return found


def _read(kind: Any, value: Any, place: str) -> Any:
    """A value of an annotated type from JSON."""
    options = get_args(kind)
    if is_dataclass(kind):
        return _read_object(kind, value, place)
    if getattr(kind, "__origin__", None) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{place} takes a list, not {value!r}")
        if options[-1] is Ellipsis:
            return tuple(_read(options[0], item, f"{place}[{n}]") for n, item in enumerate(value))
        if len(options) != len(value):
            raise ConfigError(f"{place} takes a list of {len(options)}")
        return tuple(_read(option, item, place) for option, item in zip(options, value, strict=True))
    if getattr(kind, "__origin__", None) is Literal:
        if value not in options:
            raise ConfigError(f"{place} is {value!r}; it takes one of {', '.join(options)}")
        return value
    if options:  # a union with None
        if value is None and NoneType in options:
            return None
        return _read(next(option for option in options if option is not NoneType), value, place)
    if type(value) is not kind:
        raise ConfigError(f"{place} is {value!r}; it takes {kind.__name__}")
    return value


def _read_object(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"{place} takes an object, not {value!r}")
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise ConfigError(f"{place} has no {unknown[0]!r}; it takes {', '.join(known)}")
    found = {name: _read(hints[name], item, f"{place}.{name}") for name, item in value.items()}
    try:
        return kind(**found)
    except TypeError as error:
        raise ConfigError(f"{place}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def random_scripts(seed: int, count: int) -> tuple[Script, ...]:
    """``count`` scripts with faults a client must get over, then an honest one; the same for the same seed."""
    rng = random.Random(seed)
    return (*(_random_script(rng) for _ in range(count)), HONEST)


def _random_script(rng: random.Random) -> Script:
    frame = rng.randrange(12)
    choices: list[dict[str, Any]] = [
        {"refuse": Refuse(rng.choice((404, 500, 503)))},
        {"refuse": Refuse(421, role=rng.choice(("REPLICA", "PRIMARY_CATCHUP")))},
        {"upgrade_nbytes_max": rng.randrange(100)},
        {"upgrade_raw": "SSH-2.0-server\r\n", "upgrade_nbytes_max": 16},
        {"drop": Drop(after_frames=frame, before_ack=rng.random() < 0.5, reset=rng.random() < 0.5)},
        {"drop": Drop(after_nbytes=rng.randrange(1, 5_000), reset=rng.random() < 0.5)},
        {"drop": Drop(mid_frame=frame)},
        {"close": Close(frame, rng.choice((1000, 1001, 1011)))},
        {"reject": (Reject(frame, rng.choice((Status.INTERNAL_ERROR, Status.WRITE_ERROR)).value),)},
        {"answers": (Answer(frame, rng.choice(("garbage", "empty", "trailing", "half"))),)},
    ]
    acks: list[dict[str, Any]] = [
        {},
        {"ack_delay_millis": rng.randrange(1, 20)},
        {"ack_twice": True},
        {"ack_swapped": True},
    ]
    return Script(**rng.choice(choices), **rng.choice(acks))
