"""The grammar of a connect string, and of the values in it (behaviour.md 1.1).

    ws::addr=localhost:9000;auto_flush_rows=500;

`split` cuts the string into a scheme and settings; the readers below turn the text of one value into
a Python value.  A reader raises ValueError with the reason alone ("takes on or off"); who calls it adds
the key and the value, because only the caller knows whether the value may be shown.

Pure functions, nothing is opened.  Grammar errors name positions, never text: a password with a single
``;`` in it leaves a piece of itself where the next key should stand.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeVar

from spoolq import limits
from spoolq.errors import ConfigError

_T = TypeVar("_T")

INT64_MAX: Final = (1 << 63) - 1
# What every wait of the platform takes (poll(2) has a C int of milliseconds): 24.8 days.
MILLIS_MAX: Final = (1 << 31) - 1
COUNT_MAX: Final = (1 << 31) - 1

_WORD: Final = re.compile(r"[A-Za-z0-9_]+")
_VALUE: Final = re.compile(r"((?:[^;]+|;;)*)(?:;|\Z)")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_SIZE: Final = re.compile(r"([0-9]{1,20})(?:([kmgt])b?)?", re.IGNORECASE)
_SHIFT: Final = {"k": 10, "m": 20, "g": 30, "t": 40}
_BAD_IN_HOST: Final = re.compile(r"[\s/@?#\[\]\\]")


class Setting(NamedTuple):
    """One ``key=value`` of a connect string, ``;;`` already undone; ``position`` counts from 1."""

    key: str
    value: str
    position: int


class Address(NamedTuple):
    """A server's host (an IPv6 address without its brackets) and TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def split(conf: str) -> tuple[str, list[Setting]]:
    """Cuts ``scheme::key=value;...`` into the scheme and its settings, in order, duplicates included.

    A literal ``;`` in a value is written ``;;``; the last ``;`` may be left out (behaviour.md 1.1).
    Raises ConfigError.
    """
    scheme = _WORD.match(conf)
    if scheme is None or not conf.startswith("::", scheme.end()):
        raise ConfigError("a connect string starts with a scheme and '::', as in ws::addr=localhost:9000;")
    settings: list[Setting] = []
    offset = scheme.end() + 2
    while offset < len(conf):
        position = len(settings) + 1
        key = _WORD.match(conf, offset)
        if key is None or not conf.startswith("=", key.end()):
            raise ConfigError(
                f"setting {position} of the connect string (character {offset + 1}) is not key=value; "
                "a ';' inside a value is written ';;'"
            )
        value = _VALUE.match(conf, key.end() + 1)
        assert value is not None, "the pattern matches an empty value too"
        settings.append(Setting(key[0], value[1].replace(";;", ";"), position))
        offset = value.end()
    return scheme[0], settings


def check_text(value: str) -> None:
    """What holds for every value: not empty, no control character."""
    if not value:
        raise ValueError("is empty")
    if found := _CONTROL.search(value):
        raise ValueError(f"holds the control character U+{ord(found[0]):04X}")


def read_text(text: str) -> str:
    """Any text that UTF-8 can write; the reason shows nothing of it."""
    if _SURROGATE.search(text):
        raise ValueError("holds a byte that is not UTF-8 (or a lone surrogate, as which Python reads one)")
    return text


def read_bool(text: str) -> bool:
    """``on``, ``off``, ``true`` or ``false``, in any case."""
    return read_word({"on": True, "off": False, "true": True, "false": False})(text)


def read_word(choices: Mapping[str, _T]) -> Callable[[str], _T]:
    """A reader of one word out of several, in any case, each with its meaning."""

    def read(text: str) -> _T:
        word = text.lower()
        if word not in choices:
            raise ValueError("takes " + ", ".join(choices))
        return choices[word]

    return read


def read_int(low: int, high: int = INT64_MAX, *, off: bool = False) -> Callable[[str], int]:
    """A reader of a decimal number from ``low`` to ``high``; ``off=True`` also takes ``off`` for 0.

    A sign is allowed only where ``low`` is negative.
    """
    pattern = re.compile(r"[+-]?[0-9]{1,20}" if low < 0 else r"[0-9]{1,20}")
    expected = f"takes a whole number from {low} to {high}" + (" or off" if off else "")

    def read(text: str) -> int:
        if off and text.lower() == "off":
            return 0
        if not pattern.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError(expected)
        return int(text)

    return read


def read_size(low: int, *, off: bool = False) -> Callable[[str], int]:
    """A reader of a number of bytes of at least ``low``, with an optional suffix.

    ``k``, ``kb``, ``m``, ``mb``, ``g``, ``gb``, ``t``, ``tb`` in any case are powers of 1024;
    ``off=True`` also takes ``off`` for 0.
    """
    expected = f"takes at least {low} bytes, as a number with or without k, m, g, t" + (" or off" if off else "")

    def read(text: str) -> int:
        if off and text.lower() == "off":
            return 0
        found = _SIZE.fullmatch(text)
        if found is None:
            raise ValueError(expected)
        nbytes = int(found[1]) << (_SHIFT[found[2].lower()] if found[2] else 0)
        if nbytes > INT64_MAX:
            raise ValueError("is more than 64 bits hold")
        if nbytes < low:
            raise ValueError(expected)
        return nbytes

    return read


def read_addresses(text: str) -> tuple[Address, ...]:
    """``host[:port]`` items split by commas; an IPv6 address stands in brackets; the port is 9000 if absent."""
    return tuple(_address(item.strip()) for item in text.split(","))


def same_host(address: Address) -> tuple[object, int]:
    """Equal for two spellings of one address: names ignore case, IPv6 texts are compared as bytes."""
    try:
        return socket.inet_pton(socket.AF_INET6, address.host), address.port
    except OSError:
        return address.host.lower(), address.port


def _address(item: str) -> Address:
    if not item:
        raise ValueError("has an empty item; write host:port,host:port")
    if "@" in item:
        raise ValueError("has an '@'; credentials are the settings username and password, or token")
    if item.startswith("["):
        host, bracket, rest = item[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{item!r} is not [IPv6]:port")
        _check_ipv6(host)
        port = rest[1:] if rest else None
    elif item.count(":") > 1:
        raise ValueError(f"{item!r} has several ':'; an IPv6 address stands in brackets, as in [::1]:9000")
    else:
        host, colon, text = item.partition(":")
        port = text if colon else None
        if not host:
            raise ValueError(f"{item!r} has no host")
        if _BAD_IN_HOST.search(host):
            raise ValueError(f"{host!r} is not a host name; write host:port, without a scheme or path")
    return Address(host, limits.DEFAULT_PORT if port is None else _port(item, port))


def _check_ipv6(host: str) -> None:
    try:
        socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        raise ValueError(f"{host!r} is not an IPv6 address") from None


def _port(item: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65_535:
        raise ValueError(f"{item!r} has no port from 1 to 65535 behind its ':'")
    return int(text)
