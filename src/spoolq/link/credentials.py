"""The ``Authorization`` header of a connect, and what must not be told of it.

A server, or a proxy before it, may quote the request in whatever it says: the body of a refusal, a header, the
reason of a CLOSE, the text of an error frame.  `hide` takes the credentials out of such a text before anything else
sees it: the token, or the base64 of Basic and the password as it was before that, as it stands or as it is written in a
URL, in JSON, in HTML.  A beginning that the end of the text or an ellipsis cuts off is hidden, too.

Imported for a sender that has credentials, when it is opened: others need no alphabet of HTML.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from functools import lru_cache
from html import escape
from typing import Final

from spoolq.qwp import upgrade

_HIDDEN: Final = "[secret]"
_CUT_MIN: Final = 3  # a shorter beginning may be anything
_ELLIPSES: Final = ("...", "\u2026")
_SHORT: Final = {" ": {"+"}, "/": {"\\/"}, '"': {'\\"'}, "'": {"&apos;", "\\'"}, "\\": {"\\\\"}}  # in URLs, JSON, HTML


def authorization(username: str | None, password: str | None, token: str | None) -> str | None:
    """The ``Authorization`` header of a configuration: bearer, basic, or None."""
    if token is not None:
        return bearer(token)
    if username is not None and password is not None:
        return upgrade.basic(username, password)
    return None


def bearer(token: str) -> str:
    """The ``Authorization`` header of a token."""
    return f"Bearer {token}"


def hide(said: str, header: str | None, tokens: Iterable[str] = ()) -> str:
    """``said`` without the credentials of the header and without the tokens."""
    scheme, _, secret = (header or "").partition(" ")
    secrets = {secret, *tokens}
    if scheme == "Basic":
        secrets.add(base64.b64decode(secret).decode().partition(":")[2])
    secrets.discard("")
    if not secrets:
        return said
    told, at = [], 0
    while at < len(said):
        end = max(_end(said, at, secret) for secret in secrets)
        told.append(_HIDDEN if end > at else said[at])
        at = max(end, at + 1)
    return "".join(told)


def _end(said: str, start: int, secret: str) -> int:
    """Where the secret that begins at ``start`` ends; ``start`` when none does.

    Two backslashes may be one of the secret's or both: all ways to read a text are followed, and the longest counts.
    """
    if not said.startswith(_ways_to_write(secret[0]), start):
        return start
    ends = {start}
    for count, character in enumerate(secret):
        ways = _ways_to_write(character)
        before, ends = ends, {at + len(way) for at in ends for way in ways if said.startswith(way, at)}
        if not ends:
            return max(start, *(_cut(said, at, ways) for at in before)) if count >= _CUT_MIN else start
    return max(ends)


def _cut(said: str, at: int, ways: tuple[str, ...]) -> int:
    """Where a beginning of a secret ends, whose next character is not at ``at``; 0 when nothing has cut it off."""
    if said.startswith(_ELLIPSES, at):
        return at
    return len(said) if any(way.startswith(said[at:]) for way in ways) else 0


@lru_cache(256)
def _ways_to_write(character: str) -> tuple[str, ...]:
    """How others write one character of a secret."""
    code, utf8, utf16 = ord(character), character.encode(), character.encode("utf-16-be")
    percent = "".join(f"%{byte:02x}" for byte in utf8)
    json = "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(utf16[::2], utf16[1::2], strict=True))
    ways = {character, percent, percent.upper(), json, json.upper().replace("U", "u")}
    ways |= {escape(character), f"&#{code};", f"&#x{code:x};", f"&#x{code:X};"}
    ways |= _SHORT.get(character, set())
    if not character.isascii():
        # In a body that is not UTF-8, by who has ASCII alone, in a header.
        ways |= {"\ufffd", "?", utf8.decode("latin-1")}
    return tuple(ways)
