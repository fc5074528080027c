"""Connect string and keyword arguments become one frozen `SenderConfig`.

    parse("ws::addr=localhost:9000;", auto_flush_rows=500)
    from_env()                                # the connect string in QDB_CLIENT_CONF

The settings stand in one table (`spoolq.config_keys.KEYS`), their grammar in `spoolq.config_grammar`.
Here the two sources are brought together and the rules between settings are checked.  Everything wrong
is a ConfigError that names the setting, and its value unless that is a secret, before any socket or
thread exists; the only file that is looked at is ``tls_roots`` (behaviour.md 1.1, 1.2).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final, Literal, NamedTuple

from spoolq import limits
from spoolq.config_grammar import Address, Setting, check_text, same_host, split
from spoolq.config_keys import IGNORED, KEYS, REFUSED, Key, Secret, TokenProvider
from spoolq.errors import ConfigError
from spoolq.frozen import Frozen

__all__ = ["ENVIRONMENT_VARIABLE", "Address", "Secret", "SenderConfig", "TokenProvider", "from_env", "parse"]

ENVIRONMENT_VARIABLE: Final = "QDB_CLIENT_CONF"

_LOG = logging.getLogger("spoolq.config")
_SCHEMES: Final[dict[str, Literal["ws", "wss"]]] = {"ws": "ws", "wss": "wss", "qwpws": "ws", "qwpwss": "wss"}
_BY_NAME: Final[dict[str, Key]] = {name: key for key in KEYS for name in (key.name, *key.aliases)}
#: Keyword arguments of `spoolq.Sender` that are no settings.
_HANDLERS: Final = ("error_handler", "connection_listener", "error_policy", "category_policies", "progress_handler")
_SHOWN_CHARACTERS_MAX: Final = 200
_LIKENESS_MIN: Final = 0.75  # of a name that is offered for another


class SenderConfig(Frozen):
    """What a sender was asked to be; made by `parse` only, so every value is checked.

    Names and units are those of the table in docs/configuration.md.  0 in a trigger means off; None means
    not set.  ``explicit`` holds the canonical names of the settings that were given.  Its repr shows no secret.
    """

    scheme: Literal["ws", "wss"]
    endpoints: tuple[Address, ...]
    username: str | None
    password: Secret | None
    token: Secret | TokenProvider | None
    auth_timeout_millis: int
    connect_timeout_millis: int | None
    tls_verify: bool
    tls_roots: str | None
    tls_roots_password: Secret | None
    tls_ca: Literal["os_roots", "webpki_roots", "webpki_and_os_roots"] | None
    auto_flush: bool
    auto_flush_rows: int
    auto_flush_interval_millis: int
    auto_flush_bytes: int
    init_buf_size: int
    max_buf_size: int
    max_name_len: int
    sf_dir: str | None
    sender_id: str
    sf_group_access: bool
    sf_durability: Literal["memory", "periodic", "flush", "append"]
    sf_sync_interval_millis: int
    sf_max_segment_bytes: int
    sf_max_total_bytes: int
    sf_append_deadline_millis: int
    initial_connect: Literal["off", "sync", "async"]
    reconnect_max_duration_millis: int
    reconnect_initial_backoff_millis: int
    reconnect_max_backoff_millis: int
    close_flush_timeout_millis: int
    request_durable_ack: bool
    durable_ack_keepalive_interval_millis: int
    half_open_timeout_millis: int
    max_frame_rejections: int
    poison_min_escalation_window_millis: int
    cap_gap_window_millis: int
    outage_budget_millis: int
    drain_orphans: bool
    max_background_drainers: int
    drainer_give_up_millis: int
    error_inbox_capacity: int
    connection_listener_inbox_capacity: int
    dead_letter_max_bytes: int
    on_server_error: str
    on_schema_error: str | None
    on_parse_error: str | None
    on_internal_error: str | None
    on_security_error: str | None
    on_write_error: str | None
    gorilla: bool
    explicit: frozenset[str]

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted (scheme ``wss``)."""
        return self.scheme == "wss"

    @property
    def policies(self) -> dict[str, str]:
        """Category -> policy where a setting says so: its own key, else ``on_server_error`` (behaviour.md 6.2)."""
        own = {
            "schema_mismatch": self.on_schema_error,
            "parse_error": self.on_parse_error,
            "internal_error": self.on_internal_error,
            "security_error": self.on_security_error,
            "write_error": self.on_write_error,
        }
        general = None if self.on_server_error == "auto" else self.on_server_error
        return {category: policy for category, key in own.items() if (policy := key or general) is not None}


def from_env(**keywords: Any) -> SenderConfig:
    """`parse` of the connect string in the environment variable ``QDB_CLIENT_CONF``; unset is an error."""
    conf = os.environ.get(ENVIRONMENT_VARIABLE)
    if conf is None:
        raise ConfigError(
            f"the environment variable {ENVIRONMENT_VARIABLE} is not set; "
            "it holds a connect string such as ws::addr=localhost:9000;"
        )
    return parse(conf, **keywords)


def parse(conf: str, /, **keywords: Any) -> SenderConfig:
    """The configuration from a connect string and keyword arguments of the same names.

    A keyword takes the text of the connect string (no doubling of ``;``), or a bool for on and off (False is
    ``unsafe_off`` for ``tls_verify``), an int, a path, a timedelta for milliseconds, for ``addr`` also a list of
    ``host:port``, for ``token`` also a callable; None counts as not given.
    A setting given twice is an error, also once in each place.  Raises ConfigError.
    """
    if not isinstance(conf, str):
        raise ConfigError(f"a connect string is a str, not {type(conf).__name__}")
    scheme, settings = split(conf)
    if scheme not in _SCHEMES:
        raise ConfigError(
            f"scheme {scheme[:_SHOWN_CHARACTERS_MAX]!r} is not served: spoolq speaks QWP over WebSocket, "
            f"write ws:: (plain) or wss:: (TLS), in lower case{_nearest(scheme, _SCHEMES)}"
        )
    provider = keywords.pop("token") if callable(keywords.get("token")) else None
    given = _gather([*settings, *_settings_of(keywords)])
    values = {key: _read(key, given[key.name]) for key in KEYS if key.name in given}
    if provider is not None:
        if "token" in given:
            raise _doubled(given["token"], _Given("token", "", False))
        values[_BY_NAME["token"]] = TokenProvider(provider)
    return _complete(_SCHEMES[scheme], values)


def _settings_of(keywords: dict[str, Any]) -> list[Setting]:
    """Keyword arguments as settings like those of a connect string, with position 0."""
    found: list[Setting] = []
    for name, value in keywords.items():
        if value is None:
            continue
        if name not in _BY_NAME and name not in IGNORED:
            raise _unknown(name, 0, None)
        several = name == "addr" and isinstance(value, (list, tuple)) and not isinstance(value, Address)
        found += [Setting(name, _text_of(name, item), 0) for item in (value if several else [value])]
    return found


def _text_of(name: str, value: Any) -> str:
    if name == "tls_verify" and value is False:
        return "unsafe_off"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, timedelta) and name in _BY_NAME and str(_BY_NAME[name].field).endswith("_millis"):
        millis, rest = divmod(value, timedelta(milliseconds=1))
        if rest:
            raise ConfigError(f"{name}={value!r} is not a whole number of milliseconds", key=name)
        return str(millis)
    if isinstance(value, (int, str, Address)):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    raise ConfigError(f"{name} takes a str, int, bool or path, not {type(value).__name__}", key=name)


class _Given(NamedTuple):
    """One setting as it was given: its name (perhaps an alias), its text, and where it stood."""

    name: str
    text: str
    in_string: bool


def _gather(settings: list[Setting]) -> dict[str, _Given]:
    """The given settings by canonical name; refuses unknown, foreign and doubled ones and empty values."""
    given: dict[str, _Given] = {}
    previous: Key | None = None
    for name, text, position in settings:
        key = _BY_NAME.get(name)
        if key is None and name not in IGNORED:
            raise _unknown(name, position, previous if position else None)
        previous = key
        try:
            check_text(text)
        except ValueError as error:
            raise ConfigError(f"{name} {error}", key=name) from None
        canonical = name if key is None else key.name
        now = _Given(name, text, position > 0)
        before = given.get(canonical)
        if before is not None:
            if canonical != "addr" or before.in_string != now.in_string:
                raise _doubled(before, now)
            now = before._replace(text=f"{before.text},{text}")
        given[canonical] = now
    return given


def _unknown(name: str, position: int, previous: Key | None) -> ConfigError:
    """The error for a key outside the table."""
    if name in REFUSED:
        return ConfigError(f"{name} is not taken here: {REFUSED[name]}", key=name)
    if previous is not None and previous.secret:
        # A single ';' inside a secret makes the rest of it look like the next key.
        return ConfigError(
            f"unknown configuration key at setting {position}, behind {previous.name}; it is not shown, "
            f"for it may be a part of the {previous.name}: a ';' inside a value is written ';;'"
        )
    nearest = _nearest(name, _BY_NAME if position else (*_BY_NAME, *_HANDLERS))
    return ConfigError(f"unknown configuration key: {name[:_SHOWN_CHARACTERS_MAX]}{nearest}", key=name)


def _nearest(name: str, names: Iterable[str]) -> str:
    """The end of an error's text that offers the name most like this one; empty when none is."""
    try:
        from difflib import get_close_matches  # errors alone pay for it
    except OSError:  # an import opens files, and there may be no descriptor left
        return ""
    found = get_close_matches(name[:_SHOWN_CHARACTERS_MAX].lower(), names, 1, _LIKENESS_MIN)
    return f"; did you mean {found[0]}?" if found else ""


def _doubled(before: _Given, now: _Given) -> ConfigError:
    if before.in_string != now.in_string:
        what = f"{now.name} is given as a keyword, and in the connect string as {before.name}"
    elif before.name != now.name:
        what = f"{before.name} and {now.name} are one setting under two names"
    else:
        what = f"{now.name} is given twice"
    return ConfigError(f"{what}; give it once", key=now.name)


def _read(key: Key, given: _Given) -> Any:
    """The value of one setting."""
    try:
        return key.read(given.text)
    except ValueError as error:
        # Nobody should put credentials into addr, but user:password@host is a habit of URLs.
        if key.secret or (key.name == "addr" and "@" in given.text):
            raise ConfigError(f"{given.name} (value not shown) {error}", key=given.name) from None
        shown = given.text[:_SHOWN_CHARACTERS_MAX]
        raise ConfigError(f"{given.name}={shown!r}: {error}", key=given.name) from None


def _complete(scheme: Literal["ws", "wss"], values: dict[Key, Any]) -> SenderConfig:
    """Defaults, and the rules between settings."""
    explicit = frozenset(key.name for key in values)
    fields = {key.field: values.get(key, key.default) for key in KEYS if key.field is not None}
    _check_endpoints(fields["endpoints"])
    _check_credentials(explicit)
    _check_tls(scheme, fields["tls_verify"], explicit)
    if not fields["auto_flush"]:
        for name in ("auto_flush_rows", "auto_flush_interval", "auto_flush_bytes"):
            if name not in explicit:
                fields[str(_BY_NAME[name].field)] = 0
    _check_drop(fields)
    _check_durability(fields, explicit)
    _settle_sizes(fields, explicit)
    _promote(fields, explicit)
    return SenderConfig(scheme=scheme, explicit=explicit, **fields)


def _check_endpoints(endpoints: tuple[Address, ...] | None) -> None:
    if endpoints is None:
        raise ConfigError("addr is missing: the server's host:port, as in ws::addr=localhost:9000;", key="addr")
    seen = set()
    for address in endpoints:
        if same_host(address) in seen:
            raise ConfigError(f"addr names {address} twice", key="addr")
        seen.add(same_host(address))


def _check_credentials(explicit: frozenset[str]) -> None:
    basic = {"username", "password"} & explicit
    if "token" in explicit and basic:
        raise ConfigError("token and username or password exclude each other", key="token")
    if len(basic) == 1:
        (present,) = basic
        absent = "password" if present == "username" else "username"
        raise ConfigError(f"{present} needs {absent} beside it", key=absent)


def _check_tls(scheme: str, verify: bool, explicit: frozenset[str]) -> None:
    for name in ("tls_verify", "tls_roots", "tls_roots_password", "tls_ca"):
        if name in explicit and scheme != "wss":
            raise ConfigError(f"{name} is for TLS: write wss:: as the scheme", key=name)
    for name in ("tls_roots", "tls_ca"):
        if name in explicit and not verify:
            raise ConfigError(f"tls_verify=unsafe_off and {name} exclude each other", key="tls_verify")
    if {"tls_roots", "tls_ca"} <= explicit:
        raise ConfigError("tls_roots and tls_ca exclude each other: each names all the roots there are", key="tls_ca")
    if "tls_roots_password" in explicit and "tls_roots" not in explicit:
        raise ConfigError("tls_roots_password needs tls_roots beside it", key="tls_roots")


def _check_drop(fields: dict[str, Any]) -> None:
    for key in KEYS:
        if key.field is not None and fields[key.field] == "drop" and fields["sf_dir"] is None:
            raise ConfigError(
                f"{key.name}=drop needs sf_dir: what is dropped is kept there as a dead letter", key=key.name
            )


def _check_durability(fields: dict[str, Any], explicit: frozenset[str]) -> None:
    mode = fields["sf_durability"]
    if mode != "memory" and fields["sf_dir"] is None:
        raise ConfigError(
            f"sf_durability={mode} needs sf_dir: a queue in memory cannot be synced to a disk", key="sf_durability"
        )
    if mode != "periodic" and "sf_sync_interval_millis" in explicit:
        interval = fields["sf_sync_interval_millis"]
        raise ConfigError(
            f"sf_sync_interval_millis={interval} needs sf_durability=periodic, and it is {mode}",
            key="sf_sync_interval_millis",
        )


def _settle_sizes(fields: dict[str, Any], explicit: frozenset[str]) -> None:
    """Segment, total and byte trigger fit each other (behaviour.md 1.2, 3.4)."""
    segment, total = fields["sf_max_segment_bytes"], fields["sf_max_total_bytes"]
    if "sf_max_total_bytes" not in explicit:
        if fields["sf_dir"] is not None:
            total = limits.SPOOL_BYTES_DEFAULT_DISK
        fields["sf_max_total_bytes"] = max(total, 2 * segment)
    elif total < 2 * segment:
        raise ConfigError(
            f"sf_max_total_bytes={total} is less than two segments of sf_max_segment_bytes={segment}",
            key="sf_max_total_bytes",
        )
    if {"init_buf_size", "max_buf_size"} <= explicit and fields["init_buf_size"] > fields["max_buf_size"]:
        raise ConfigError(
            f"init_buf_size={fields['init_buf_size']} is more than max_buf_size={fields['max_buf_size']}",
            key="init_buf_size",
        )
    trigger = fields["auto_flush_bytes"]
    if {"auto_flush_bytes", "sf_max_segment_bytes"} <= explicit and trigger > segment:
        raise ConfigError(
            f"auto_flush_bytes={trigger} is more than one segment of sf_max_segment_bytes={segment}",
            key="auto_flush_bytes",
        )


def _promote(fields: dict[str, Any], explicit: frozenset[str]) -> None:
    """A reconnect key without a mode makes the first connect retry too (behaviour.md 2.2)."""
    causes = sorted(name for name in explicit if name.startswith("reconnect_"))
    if causes and "initial_connect_retry" not in explicit:
        fields["initial_connect"] = "sync"
        _LOG.info(
            "initial_connect_retry is sync because %s is set; initial_connect_retry=off keeps it off",
            ", ".join(causes),
        )
