"""credentials.py: what a peer says, without the secrets that it quotes (the ways to write one: test_connect.py)."""

from __future__ import annotations

import pytest

from spoolq.link import ConnectOptions
from spoolq.link.credentials import authorization, hide
from spoolq.link.tokens import Tokens


def test_without_credentials_everything_is_told() -> None:
    assert hide("no token here", None) == "no token here"
    assert hide("", "Bearer abc") == ""


def test_of_two_secrets_that_begin_alike_the_longer_one_is_hidden_whole() -> None:
    assert hide("tok-12 and tok-1.", "Bearer tok-1", ["tok-12"]) == "[secret] and [secret]."


def test_what_stands_for_a_secret_is_not_looked_at_again() -> None:
    assert hide("a secret", "Bearer secret", ["e"]) == "a [secret]"


@pytest.mark.parametrize("dots", ["...", "\u2026"])
def test_a_beginning_in_front_of_an_ellipsis_is_hidden(dots: str) -> None:
    assert hide(f"token 'hunter2{dots}' is unknown", "Bearer hunter2secret") == f"token '[secret]{dots}' is unknown"
    assert hide(f"hu{dots}", "Bearer hunter2secret") == f"hu{dots}", "that may be anything"


@pytest.mark.parametrize(
    "written",
    [
        r"\u0070\u003ds\/\u00e4\u0027",  # as Gson and PHP write JSON
        r"p\u003Ds\u002F\u00E4\u0027",
        "p&#x3D;s&#x2F;&#xE4;&#39;",  # as Mustache and Handlebars write HTML
        "p&#x3d;s&#x2f;&#xe4;&apos;",
        "p=s/\u00c3\u00a4'",  # UTF-8 in a header, which is read as Latin-1
        "p=s/?'",  # by who has ASCII alone
    ],
)
def test_a_secret_is_hidden_in_whatever_way_each_character_is_escaped(written: str) -> None:
    header = authorization("bob", "p=s/\u00e4'", None)
    assert hide(f"bob:{written}, {written}!", header) == "bob:[secret], [secret]!"
    assert hide(f"bob:{written[:-1]}", header) == "bob:[secret]", "cut in the last character or before it"


@pytest.mark.parametrize(
    ("secret", "written"),
    [
        (r"p\\s", r"p\\s, p\\\\s, p\\&#115;"),  # two backslashes: as they are, in JSON, in HTML
        ("ps&", "ps&amp;, ps&, ps&#38;"),
        ("p%25<", "p%25<, p%2525%3C, p%25&lt;"),
    ],
)
def test_what_can_be_read_in_two_ways_is_hidden_in_both(secret: str, written: str) -> None:
    assert hide(f"{written}!", f"Bearer {secret}") == "[secret], [secret], [secret]!"


def test_basic_is_hidden_as_base64_and_as_the_password() -> None:
    header = authorization("bob", "a:b", None)
    assert header == "Basic Ym9iOmE6Yg=="
    assert hide("bob: Ym9iOmE6Yg== is a:b", header) == "bob: [secret] is [secret]"


def test_tokens_of_earlier_connects_are_remembered_up_to_a_bound() -> None:
    tokens = Tokens(str, "spoolq-token")
    options = ConnectOptions(tokens=tokens)
    for number in range(10, 40):
        tokens.keep(f"tok-{number}")
        tokens.keep("the same")
    assert options.hide("tok-39, tok-25, the same") == "[secret], [secret], [secret]"
    assert len(tokens.given) == 16


def test_more_than_an_error_may_say_is_not_looked_at() -> None:
    """A header of 8 KiB that repeats the beginning of a secret would keep the I/O thread for seconds."""
    said = "a" * 1_022 + "hunter"
    assert ConnectOptions(authorization="Bearer hunter2").hide(said) == "a" * 1_022 + "hu"
