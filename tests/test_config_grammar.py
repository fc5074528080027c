"""The grammar of a connect string (behaviour.md 1.1): what is cut where, and that what is wrong is an error."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.config import Address, parse
from spoolq.config_grammar import Setting, read_addresses, read_size, split
from spoolq.errors import ConfigError

WORDS = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=12)
VALUES = st.text(max_size=20).filter(lambda text: text == text.replace("\0", ""))


def join(scheme: str, settings: list[tuple[str, str]], *, last: bool) -> str:
    """The connect string of these settings: the inverse of `split`."""
    text = ";".join(f"{key}={value.replace(';', ';;')}" for key, value in settings)
    return f"{scheme}::{text}" + (";" if last and settings else "")


@given(WORDS, st.lists(st.tuples(WORDS, VALUES), max_size=6), st.booleans())
def test_split_undoes_join(scheme: str, settings: list[tuple[str, str]], last: bool) -> None:
    expected = [Setting(key, value, index) for index, (key, value) in enumerate(settings, 1)]
    assert split(join(scheme, settings, last=last)) == (scheme, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", ["b"]),
        ("a=b;", ["b"]),
        ("a=b;;", ["b;"]),
        ("a=b;;;", ["b;"]),
        ("a=b;;;c=d", ["b;", "d"]),
        ("a=b;;c=d", ["b;c=d"]),
        ("a=;;;b=c", [";", "c"]),
        ("a=;b=c", ["", "c"]),
        ("a=b=c::d;e=:", ["b=c::d", ":"]),
        ("", []),
    ],
)
def test_semicolons(text: str, expected: list[str]) -> None:
    assert [setting.value for setting in split("ws::" + text)[1]] == expected


@given(st.text(max_size=40))
def test_any_text_is_a_config_or_a_config_error(text: str) -> None:
    for conf in (text, "ws::" + text, "ws::addr=h;" + text):
        try:
            parse(conf)
        except ConfigError:
            continue


@pytest.mark.parametrize("conf", ["", "ws", "ws:addr=h", "::addr=h", "w s::addr=h", "ws ::addr=h", " ws::addr=h"])
def test_no_scheme(conf: str) -> None:
    with pytest.raises(ConfigError, match="starts with a scheme"):
        parse(conf)


@pytest.mark.parametrize("rest", ["=b;", "addr=h;=b", "addr", "addr=h;x", "addr=h; gorilla=on", "addr=h;a-b=c", "é=1"])
def test_a_setting_that_is_no_key_value(rest: str) -> None:
    with pytest.raises(ConfigError, match="is not key=value") as caught:
        parse("ws::" + rest)
    assert caught.value.key is None


@pytest.mark.parametrize("scheme", ["http", "https", "tcp", "tcps", "udp", "WS", "Wss", "foo"])
def test_other_transports_are_refused_and_ours_are_named(scheme: str) -> None:
    with pytest.raises(ConfigError, match=rf"{scheme}.*ws::.*wss::"):
        parse(f"{scheme}::addr=h;")


@pytest.mark.parametrize(("scheme", "tls"), [("ws", False), ("wss", True), ("qwpws", False), ("qwpwss", True)])
def test_schemes(scheme: str, tls: bool) -> None:
    config = parse(f"{scheme}::addr=h;")
    assert (config.scheme, config.tls) == ("wss" if tls else "ws", tls)
    assert config.endpoints == (Address("h", 9000),)


@pytest.mark.parametrize("code", [0x00, 0x09, 0x0A, 0x1F, 0x7F, 0x85, 0x9F])
def test_control_characters_are_refused(code: int) -> None:
    with pytest.raises(ConfigError, match=f"username holds the control character U\\+{code:04X}"):
        parse(f"ws::addr=h;username=a{chr(code)}b;password=x;")


def test_an_empty_value_is_an_error_for_every_key() -> None:
    for key in ("addr", "gorilla", "password", "target", "qwp_ws_progress", "tls_roots"):
        with pytest.raises(ConfigError, match=f"{key} is empty"):
            parse(f"wss::{key}=;")
        with pytest.raises(ConfigError, match=f"{key} is empty"):
            parse("wss::", **{key: ""})


def test_keys_are_case_sensitive() -> None:
    with pytest.raises(ConfigError, match="unknown configuration key: Addr"):
        parse("ws::Addr=h;")


# --- addr ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h", [("h", 9000)]),
        ("h:1", [("h", 1)]),
        ("h:65535", [("h", 65535)]),
        (" a:1 , b ", [("a", 1), ("b", 9000)]),
        ("[::1]", [("::1", 9000)]),
        ("[fe80::1%eth0]:9001", [("fe80::1%eth0", 9001)]),
        ("10.0.0.1:80,10.0.0.1:81", [("10.0.0.1", 80), ("10.0.0.1", 81)]),
    ],
)
def test_addresses(text: str, expected: list[tuple[str, int]]) -> None:
    assert read_addresses(text) == tuple(expected)
    assert parse(f"ws::addr={text};").endpoints == tuple(expected)


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "a,",
        ",a",
        "a,,b",
        ":1",
        "a:",
        "a:0",
        "a:65536",
        "a:-1",
        "a:+1",
        "a:1x",
        "a:１",
        "::1",
        "a:1:2",
        "[::1",
        "[::1]9",
        "[::1]:",
        "[x]",
        "[]",
        "a b",
        "ws://a",
        "a/b",
        "u@h",
        "a]",
    ],
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ConfigError, match="addr") as caught:
        parse(f"ws::addr={text};")
    assert caught.value.key == "addr"
    assert ("@" in text) or (repr(text) in str(caught.value))


def test_addresses_accumulate_in_order() -> None:
    assert [str(address) for address in parse("ws::addr=b:1,a;addr=[::2]:3;").endpoints] == ["b:1", "a:9000", "[::2]:3"]
    assert [str(address) for address in parse("ws::", addr=["b:1", Address("::2", 3)]).endpoints] == ["b:1", "[::2]:3"]
    assert parse("ws::", addr=Address("h", 7)).endpoints == (Address("h", 7),)


@pytest.mark.parametrize("text", ["a,a:9000", "a:1,b:1,A:1", "[::1],[0:0:0:0:0:0:0:1]"])
def test_one_address_twice(text: str) -> None:
    with pytest.raises(ConfigError, match=r"addr names .* twice"):
        parse(f"ws::addr={text};")


@pytest.mark.parametrize("conf", ["ws::", "ws::gorilla=on;"])
def test_addr_is_required(conf: str) -> None:
    with pytest.raises(ConfigError, match="addr is missing"):
        parse(conf)


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1024", 1024),
        ("1k", 1 << 10),
        ("2KB", 2 << 10),
        ("3m", 3 << 20),
        ("4Mb", 4 << 20),
        ("5g", 5 << 30),
        ("6gB", 6 << 30),
        ("7t", 7 << 40),
        ("8TB", 8 << 40),
        ("9223372036854775807", (1 << 63) - 1),
    ],
)
def test_sizes_cfg_04(text: str, nbytes: int) -> None:
    """CFG-04: suffixes are powers of 1024, in any case, and values above 2 GiB keep all their bits."""
    assert read_size(0)(text) == nbytes
    assert parse(f"ws::addr=h;max_buf_size={text};").max_buf_size == nbytes


@pytest.mark.parametrize(
    "text",
    [
        "1b",
        "1kib",
        "1.5m",
        "-1",
        "+1",
        "1 k",
        "k",
        "0x10",
        "1_000",
        "１",
        "9223372036854775808",
        "8388608t",
        "9" * 5000,
        "1p",
        "off",
        " 1",
        "1 ",
    ],
)
def test_bad_sizes_cfg_04(text: str) -> None:
    """CFG-04: no sign, fraction, blank or other suffix, and no more than 64 bits."""
    with pytest.raises(ConfigError, match="max_buf_size"):
        parse(f"ws::addr=h;max_buf_size={text};")
