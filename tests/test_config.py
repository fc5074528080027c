"""The settings (behaviour.md 1.2 to 1.4): every key's values, and the rules between keys."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from spoolq import Sender
from spoolq.config import SenderConfig, _Given, _read, from_env, parse
from spoolq.config_keys import IGNORED, KEYS, REFUSED, Secret
from spoolq.errors import ConfigError

ROOTS = str(Path(__file__))  # any readable file will do: a config does not look into it

# Key: text -> value of the field; every accepted spelling that means something of its own.
GOOD: dict[str, dict[str, Any]] = {
    "addr": {"a:1,b": (("a", 1), ("b", 9000))},
    "username": {"joe": "joe", "a;b=c::d": "a;b=c::d"},
    "password": {"s;3": Secret("s;3")},
    "token": {"abc.def": Secret("abc.def")},
    "auth_timeout_ms": {"1": 1, "2147483647": 2_147_483_647},
    "connect_timeout": {"1": 1, "250": 250},
    "tls_verify": {"on": True, "unsafe_off": False},
    "tls_roots": {ROOTS: ROOTS},
    "tls_roots_password": {"s;3": Secret("s;3")},
    "tls_ca": {"os_roots": "os_roots", "WebPKI_roots": "webpki_roots", "webpki_and_os_roots": "webpki_and_os_roots"},
    "auto_flush": {"on": True, "OFF": False, "True": True, "false": False},
    "auto_flush_rows": {"0": 0, "off": 0, "1": 1, "600": 600},
    "auto_flush_interval": {"0": 0, "off": 0, "1": 1, "1000": 1000},
    "auto_flush_bytes": {"0": 0, "off": 0, "64k": 65_536},
    "init_buf_size": {"1024": 1024, "64k": 65_536},
    "max_buf_size": {"1024": 1024, "3g": 3 << 30},
    "max_name_len": {"16": 16, "127": 127},
    "sf_dir": {"/var/lib/app/spool": "/var/lib/app/spool", "~/x y": "~/x y"},
    "sender_id": {"writer-1": "writer-1", "A_9": "A_9"},
    "sf_group_access": {"on": True, "False": False},
    "sf_durability": {
        **{word: word for word in ("memory", "periodic", "flush", "append")},
        "Memory": "memory",
        "FLUSH": "flush",
    },
    "sf_sync_interval_millis": {"1": 1, "60000": 60_000},
    "sf_max_segment_bytes": {"33": 33, "3g": 3 << 30},
    "sf_max_total_bytes": {"8m": 8 << 20, "3g": 3 << 30},
    "sf_append_deadline_millis": {"1": 1, "60000": 60_000},
    "initial_connect_retry": {
        "off": "off",
        "false": "off",
        "on": "sync",
        "true": "sync",
        "sync": "sync",
        "async": "async",
        "Off": "off",
        "ASYNC": "async",
    },
    "reconnect_max_duration_millis": {"0": 0, "1": 1},
    "reconnect_initial_backoff_millis": {"1": 1, "200": 200},
    "reconnect_max_backoff_millis": {"1": 1, "200": 200},
    "close_flush_timeout_millis": {"0": 0, "-1": -1, "+7": 7, "60000": 60_000},
    "request_durable_ack": {"on": True, "off": False, "true": True},
    "durable_ack_keepalive_interval_millis": {"0": 0, "-1": -1, "50": 50},
    "half_open_timeout_millis": {"0": 0, "1": 1, "60000": 60_000},
    "max_frame_rejections": {"1": 1, "10": 10},
    "poison_min_escalation_window_millis": {"0": 0, "10": 10},
    "catch_up_cap_gap_min_escalation_window_millis": {"0": 0, "300000": 300_000},
    "outage_budget_millis": {"0": 0, "60000": 60_000},
    "drain_orphans": {"on": True, "FALSE": False},
    "max_background_drainers": {"0": 0, "256": 256},
    "drainer_give_up_millis": {"0": 0, "1": 1},
    "error_inbox_capacity": {"16": 16, "1048576": 1_048_576},
    "connection_listener_inbox_capacity": {"1": 1, "1048576": 1_048_576},
    "dead_letter_max_bytes": {"1": 1, "1g": 1 << 30},
    "on_server_error": {word: word for word in ("auto", "terminal", "retriable", "retriable_other")},
    "gorilla": {"on": True, "off": False},
    **{
        f"on_{category}_error": {
            **{word: word for word in ("terminal", "retriable", "retriable_other")},
            "halt": "terminal",
            "drop": "drop",
        }
        for category in ("schema", "parse", "internal", "security", "write")
    },
    "qwp_ws_progress": {"background": None},
    "transaction": {"off": None, "false": None},
    "protocol_version": {"auto": None},
}

_NOT_MILLIS = ("x", "1.5", "1e3", " 1", "1 ", "0x1", "１", "2147483648", "9" * 5_000)
_NOT_COUNT = ("x", "1.5", "2147483648")
BAD: dict[str, tuple[str, ...]] = {
    "addr": ("a:0", "::1"),
    "auth_timeout_ms": ("0", "-1", "+1", "off", *_NOT_MILLIS),
    "connect_timeout": ("0", "-1", "off", *_NOT_MILLIS),
    "tls_verify": ("off", "true", "yes"),
    "tls_roots": ("/nonexistent/roots.pem", "/"),
    "tls_ca": ("system", "pem_file", "on"),
    "auto_flush": ("1", "0", "yes", "of"),
    "auto_flush_rows": ("-1", "+1", "on", *_NOT_COUNT),
    "auto_flush_interval": ("-1", "on", *_NOT_MILLIS),
    "auto_flush_bytes": ("-1", "on", "1b", "1.5m"),
    "init_buf_size": ("0", "1023", "off", "x"),
    "max_buf_size": ("0", "1023", "off"),
    "max_name_len": ("0", "15", "128", "-1", "x"),
    "sf_max_segment_bytes": ("0", "32", "off", "-1"),
    "sf_max_total_bytes": ("0", "1", "4m", "off"),
    "sf_append_deadline_millis": ("0", "-1", *_NOT_MILLIS),
    "sender_id": ("a.b", "a/b", "..", "ä", "a b"),
    "sf_group_access": ("yes", "1"),
    "sf_durability": ("bogus", "off", "periodic", "flush", "append"),  # the last three for want of sf_dir
    "sf_sync_interval_millis": ("0", "-1", "off", "5000", *_NOT_MILLIS),  # 5000 for want of periodic
    "initial_connect_retry": ("yes", "1", "always"),
    "reconnect_max_duration_millis": ("-1", "off", *_NOT_MILLIS),
    "reconnect_initial_backoff_millis": ("0", "-1", *_NOT_MILLIS),
    "reconnect_max_backoff_millis": ("0", "-1", *_NOT_MILLIS),
    "close_flush_timeout_millis": ("off", "--1", "- 1", *_NOT_MILLIS),
    "request_durable_ack": ("1", "yes"),
    "durable_ack_keepalive_interval_millis": ("off", *_NOT_MILLIS),
    "half_open_timeout_millis": ("-1", "off", *_NOT_MILLIS),
    "max_frame_rejections": ("0", "-1", *_NOT_COUNT),
    "poison_min_escalation_window_millis": ("-1", *_NOT_MILLIS),
    "catch_up_cap_gap_min_escalation_window_millis": ("-1", "off", *_NOT_MILLIS),
    "outage_budget_millis": ("-1", "off", *_NOT_MILLIS),
    "drain_orphans": ("yes", "1"),
    "max_background_drainers": ("-1", "257", "off", *_NOT_COUNT),
    "drainer_give_up_millis": ("-1", "off", *_NOT_MILLIS),
    "error_inbox_capacity": ("0", "15", "1048577", "x"),
    "connection_listener_inbox_capacity": ("0", "1048577", "x"),
    "dead_letter_max_bytes": ("0", "-1", "1.5m", "x"),
    "on_server_error": ("halt", "drop", "ignore"),
    "gorilla": ("1", "yes"),
    **{f"on_{category}_error": ("auto", "ignore") for category in ("schema", "parse", "internal", "security", "write")},
    "qwp_ws_progress": ("manual", "x"),
    "transaction": ("on", "true", "x"),
    "protocol_version": ("1", "2", "x"),
}
FREE_TEXT = {"username", "password", "token", "tls_roots_password", "sf_dir"}  # no value is wrong by itself

# What has to stand beside a key for it to be allowed at all.
BESIDE = {
    "username": {"password": "p"},
    "password": {"username": "u"},
    "tls_roots_password": {"tls_roots": ROOTS},
    **{f"on_{category}_error": {"sf_dir": "/x"} for category in ("schema", "parse", "internal", "security", "write")},
    "sf_durability": {"sf_dir": "/s"},
    "sf_sync_interval_millis": {"sf_dir": "/s", "sf_durability": "periodic"},
}


def _conf(key: str, text: str, settings: dict[str, str] | None = None) -> str:
    pairs = {"addr": "h", key: text, **(settings or {})}
    scheme = "wss" if key.startswith("tls_") else "ws"
    return f"{scheme}::" + "".join(f"{name}={value.replace(';', ';;')};" for name, value in pairs.items())


def _field(key: str) -> str | None:
    return next(entry.field for entry in KEYS if entry.name == key)


# --- every key -----------------------------------------------------------------------------------


def test_the_tables_here_name_every_key() -> None:
    assert set(GOOD) == {key.name for key in KEYS}
    assert set(BAD) == set(GOOD) - FREE_TEXT


@pytest.mark.parametrize(("key", "text"), [(key, text) for key, texts in GOOD.items() for text in texts])
def test_every_key_reaches_its_field_cfg_02(key: str, text: str) -> None:
    """CFG-02: from the string, as a keyword and under every alias, a setting ends in the same field."""
    beside = BESIDE.get(key, {})
    config = parse(_conf(key, text, beside))
    field = _field(key)
    if field is not None:
        assert getattr(config, field) == GOOD[key][text]
    assert key in config.explicit
    scheme = config.scheme
    for name in (key, *next(entry.aliases for entry in KEYS if entry.name == key)):
        assert parse(_conf(name, text, beside)) == config
        assert parse(f"{scheme}::", **{"addr": "h", **beside, name: text}) == config


@pytest.mark.parametrize(("key", "text"), [(key, text) for key, texts in BAD.items() for text in texts])
def test_every_bad_value_is_refused_cfg_03(key: str, text: str) -> None:
    """CFG-03: the message names the key and the value, from the string and as a keyword."""
    for refused in (
        lambda: parse(_conf(key, text)),
        lambda: parse("wss::" if key.startswith("tls_") else "ws::", **{"addr": "h", key: text}),
    ):
        with pytest.raises(ConfigError) as caught:
            refused()
        assert caught.value.key == key
        assert key in str(caught.value)
        if key != "sf_max_total_bytes" or not text.endswith("m"):  # that one names bytes
            assert text[:200] in str(caught.value)


def test_an_error_names_the_alias_that_was_written() -> None:
    with pytest.raises(ConfigError, match=r"^sf_max_bytes='1': takes at least 33 bytes") as caught:
        parse("ws::addr=h;sf_max_bytes=1;")
    assert caught.value.key == "sf_max_bytes"


def test_defaults_cfg_05() -> None:
    """CFG-05: 4 MiB segments and 128 MiB in memory; and the defaults of every other field."""
    config = parse("ws::addr=h;")
    assert config.sf_max_segment_bytes == 4_194_304
    assert config.sf_max_total_bytes == 134_217_728
    assert config == SenderConfig(
        scheme="ws",
        endpoints=config.endpoints,
        username=None,
        password=None,
        token=None,
        auth_timeout_millis=15_000,
        connect_timeout_millis=None,
        tls_verify=True,
        tls_roots=None,
        tls_roots_password=None,
        tls_ca=None,
        auto_flush=True,
        auto_flush_rows=1_000,
        auto_flush_interval_millis=100,
        auto_flush_bytes=8_388_608,
        init_buf_size=0,
        max_buf_size=104_857_600,
        max_name_len=127,
        sf_dir=None,
        sender_id="default",
        sf_group_access=False,
        sf_durability="memory",
        sf_sync_interval_millis=5_000,
        sf_max_segment_bytes=4_194_304,
        sf_max_total_bytes=134_217_728,
        sf_append_deadline_millis=30_000,
        initial_connect="off",
        reconnect_max_duration_millis=300_000,
        reconnect_initial_backoff_millis=100,
        reconnect_max_backoff_millis=5_000,
        close_flush_timeout_millis=5_000,
        request_durable_ack=False,
        durable_ack_keepalive_interval_millis=200,
        half_open_timeout_millis=60_000,
        max_frame_rejections=4,
        poison_min_escalation_window_millis=5_000,
        cap_gap_window_millis=300_000,
        outage_budget_millis=0,
        drain_orphans=False,
        max_background_drainers=4,
        drainer_give_up_millis=300_000,
        error_inbox_capacity=256,
        connection_listener_inbox_capacity=64,
        dead_letter_max_bytes=256 << 20,
        on_server_error="auto",
        on_schema_error=None,
        on_parse_error=None,
        on_internal_error=None,
        on_security_error=None,
        on_write_error=None,
        gorilla=False,
        explicit=frozenset({"addr"}),
    )


def test_a_config_is_frozen() -> None:
    config = parse("ws::addr=h;")
    with pytest.raises(AttributeError, match="immutable"):
        config.gorilla = True  # type: ignore[misc]


# --- where settings come from --------------------------------------------------------------------


def test_keywords_take_python_values() -> None:
    config = parse("wss::addr=h;", auto_flush=False, auto_flush_rows=7, auto_flush_interval=20)
    assert (config.auto_flush_rows, config.auto_flush_interval_millis, config.auto_flush_bytes) == (7, 20, 0)
    assert parse("ws::addr=h;", gorilla=True).gorilla is True
    assert parse("ws::addr=h;", auto_flush_rows=False).auto_flush_rows == 0
    assert parse("ws::addr=h;", username=None).explicit == {"addr"}
    assert parse("wss::addr=h;", tls_roots=Path(ROOTS)).tls_roots == ROOTS
    assert parse("ws::addr=h;", username="a;;b", password="p").username == "a;;b"


@pytest.mark.parametrize("value", [1.5, b"x", ["a"], object()])
def test_keywords_of_other_types_are_refused(value: object) -> None:
    with pytest.raises(
        ConfigError, match=f"auto_flush_rows takes a str, int, bool or path, not {type(value).__name__}"
    ):
        parse("ws::addr=h;", auto_flush_rows=value)


def test_a_connect_string_is_a_str() -> None:
    with pytest.raises(ConfigError, match="is a str, not NoneType"):
        parse(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("conf", "keywords", "message"),
    [
        ("ws::addr=h;gorilla=on;gorilla=on;", {}, "gorilla is given twice"),
        ("ws::addr=h;target=any;target=any;", {}, "target is given twice"),
        ("ws::addr=h;user=a;username=a;password=p;", {}, "user and username are one setting"),
        ("ws::addr=h;pass=a;password=a;user=u;", {}, "pass and password are one setting"),
        ("ws::addr=h;sf_max_bytes=1m;sf_max_segment_bytes=1m;", {}, "one setting under two names"),
        ("ws::addr=h;on_schema_error=halt;on_schema_mismatch_error=halt;", {}, "one setting under two names"),
        ("ws::addr=h;gorilla=on;", {"gorilla": True}, "as a keyword, and in the connect string"),
        ("ws::addr=h;user=a;password=p;", {"username": "a"}, "username .* keyword, .* as user"),
        ("ws::addr=h;", {"addr": "i"}, "addr is given as a keyword, and in the connect string"),
        ("ws::addr=h;", {"user": "a", "username": "a", "password": "p"}, "one setting under two names"),
    ],
)
def test_one_setting_twice(conf: str, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(conf, **keywords)


def test_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDB_CLIENT_CONF", "ws::addr=h:7;")
    assert from_env(gorilla=True) == parse("ws::addr=h:7;gorilla=on;")
    monkeypatch.delenv("QDB_CLIENT_CONF")
    with pytest.raises(ConfigError, match="QDB_CLIENT_CONF is not set"):
        from_env()


# --- keys that are not ours ----------------------------------------------------------------------


def test_foreign_keys_are_read_past() -> None:
    conf = "ws::addr=h;" + "".join(f"{key}=any thing;" for key in sorted(IGNORED))
    assert parse(conf) == parse("ws::addr=h;")
    assert not IGNORED & {name for key in KEYS for name in (key.name, *key.aliases)}


@pytest.mark.parametrize("key", ["bogus", "sf_bogus_millis"])
def test_unknown_keys_are_named(key: str) -> None:
    for refused in (lambda: parse(f"ws::addr=h;{key}=1;"), lambda: parse("ws::addr=h;", **{key: "1"})):
        with pytest.raises(ConfigError, match=f"^unknown configuration key: {key}$") as caught:
            refused()
        assert caught.value.key == key


@pytest.mark.parametrize(
    ("key", "meant"),
    [("sf_dirr", "sf_dir"), ("Auto_Flush", "auto_flush"), ("adr", "addr"), ("autoflush_rows", "auto_flush_rows")],
)
def test_an_unknown_key_comes_with_the_one_that_is_most_like_it(key: str, meant: str) -> None:
    for refused in (lambda: parse(f"ws::addr=h;{key}=1;"), lambda: parse("ws::addr=h;", **{key: "1"})):
        with pytest.raises(ConfigError) as caught:
            refused()
        assert str(caught.value) == f"unknown configuration key: {key}; did you mean {meant}?"


def test_an_unknown_key_is_told_when_nothing_can_be_loaded_cfg_03(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            raise OSError(errno.EMFILE, "no descriptor")

    monkeypatch.delitem(sys.modules, "difflib", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder()])
    with pytest.raises(ConfigError, match=r"^unknown configuration key: sf_dirr$"):
        parse("ws::addr=h;sf_dirr=1;")


def test_behind_a_secret_nothing_is_offered() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("ws::addr=h;token=t;sf_dirr=1;")
    assert "sf_dir" not in str(caught.value)


def test_an_unknown_keyword_is_told_so_whatever_its_value_is() -> None:
    """And handlers are offered as well, which no connect string has."""
    names = inspect.signature(Sender.from_conf).parameters.values()
    handlers = [one.name for one in names if one.kind is one.KEYWORD_ONLY]
    assert handlers
    for name in handlers:
        with pytest.raises(ConfigError) as caught:
            Sender.from_conf("ws::addr=h;", **{f"{name}s": print})
        assert str(caught.value) == f"unknown configuration key: {name}s; did you mean {name}?"
        with pytest.raises(ConfigError, match=f"^unknown configuration key: {name}s$"):
            parse(f"ws::addr=h;{name}s=1;")
    with pytest.raises(ConfigError, match=r"^retry_timeout is not taken here: "):
        parse("ws::addr=h;", retry_timeout=1.5)


@pytest.mark.parametrize(("scheme", "meant"), [("wsss", "wss"), ("WS", "ws"), ("tcp", None)])
def test_an_unknown_scheme_comes_with_the_one_that_is_most_like_it(scheme: str, meant: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"{scheme}::addr=h;")
    assert str(caught.value).endswith(f"in lower case; did you mean {meant}?" if meant else "in lower case")


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_retired_and_foreign_keys_get_a_pointed_error_cfg_10(key: str) -> None:
    """CFG-10: the error names the key and says where it belongs or what replaces it."""
    with pytest.raises(ConfigError) as caught:
        parse(f"ws::addr=h;{key}=1;")
    assert str(caught.value) == f"{key} is not taken here: {REFUSED[key]}"
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("retry_timeout", "reconnect_max_duration_millis"),
        ("close_timeout", "close_flush_timeout_millis"),
        ("store_and_forward", "sf_dir"),
        ("sf_fsync", "sf_durability"),
        ("pool_max", "sender_pool_max"),
        ("token_x", "TCP"),
        ("multicast_ttl", "UDP"),
    ],
)
def test_what_the_hints_point_to_cfg_10(key: str, hint: str) -> None:
    """CFG-10: the names that replace a retired key."""
    assert hint in REFUSED[key]


@pytest.mark.parametrize("key", ["sf_max_total_bytes", "sf_append_deadline_millis", "reconnect_max_backoff_millis"])
def test_spool_keys_on_another_transport_cfg_06(key: str) -> None:
    """CFG-06: no key of ours makes another transport acceptable."""
    with pytest.raises(ConfigError, match="'http' is not served"):
        parse(f"http::addr=h;{key}=100m;")


# --- rules between settings ----------------------------------------------------------------------


def test_the_default_cap_is_larger_on_disk_cfg_05() -> None:
    """CFG-05: 10 GiB with `sf_dir`, 128 MiB without; an explicit cap stays."""
    assert parse("ws::addr=h;sf_dir=/s;").sf_max_total_bytes == 10 << 30
    assert parse("ws::addr=h;").sf_max_total_bytes == 128 << 20
    assert parse("ws::addr=h;sf_dir=/s;sf_max_total_bytes=64m;").sf_max_total_bytes == 64 << 20


def test_a_sender_id_is_checked_before_any_file_exists_cfg_09(tmp_path: Path) -> None:
    """CFG-09: the error comes from the parser; the directory is as it was."""
    with pytest.raises(ConfigError, match=r"^sender_id='a/b': takes letters"):
        parse(f"ws::addr=h;sf_dir={tmp_path / 'new'};sender_id=a/b;")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("username=a", "username needs password"),
        ("pass=a", "password needs username"),
        ("token=a;username=b;password=c", "token and username or password exclude each other"),
        ("token=a;password=c", "token and username or password exclude each other"),
        ("tls_verify=on", "tls_verify is for TLS"),
        (f"tls_roots={ROOTS}", "tls_roots is for TLS"),
        ("tls_ca=os_roots", "tls_ca is for TLS"),
        ("tls_roots_password=x", "tls_roots_password is for TLS"),
        ("init_buf_size=4k;max_buf_size=4095", "init_buf_size=4096 is more than max_buf_size=4095"),
        ("sf_max_segment_bytes=1m;sf_max_total_bytes=2097151", "2097151 is less than two segments"),
        ("sf_max_segment_bytes=1m;auto_flush_bytes=1048577", "auto_flush_bytes=1048577 is more than one segment"),
    ],
)
def test_settings_that_exclude_each_other(settings: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(f"ws::addr=h;{settings};")


def test_roots_need_verification() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        parse(f"wss::addr=h;tls_verify=unsafe_off;tls_roots={ROOTS};")
    with pytest.raises(ConfigError, match="unsafe_off and tls_ca exclude each other"):
        parse("wss::addr=h;tls_verify=unsafe_off;tls_ca=os_roots;")
    assert parse(f"wss::addr=h;tls_verify=on;tls_roots={ROOTS};").tls_roots == ROOTS


def test_roots_come_from_one_place_and_a_password_opens_a_file() -> None:
    with pytest.raises(ConfigError, match="tls_roots and tls_ca exclude each other"):
        parse(f"wss::addr=h;tls_ca=os_roots;tls_roots={ROOTS};")
    with pytest.raises(ConfigError, match="tls_roots_password needs tls_roots"):
        parse("wss::addr=h;tls_roots_password=x;")


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ("sf_max_segment_bytes=64m", 128 << 20),
        ("sf_max_bytes=65m", 130 << 20),
        ("sf_max_segment_bytes=1k", 128 << 20),
        ("sf_max_segment_bytes=1m;sf_max_total_bytes=2m", 2 << 20),
    ],
)
def test_an_implicit_total_grows_with_the_segment(settings: str, total: int) -> None:
    assert parse(f"ws::addr=h;{settings};").sf_max_total_bytes == total


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("auto_flush=on", (1_000, 100, 8 << 20)),
        ("auto_flush=off", (0, 0, 0)),
        ("auto_flush=off;auto_flush_rows=5", (5, 0, 0)),
        ("auto_flush_interval=5;auto_flush=off", (0, 5, 0)),
        ("auto_flush=off;auto_flush_bytes=1m", (0, 0, 1 << 20)),
        ("auto_flush_bytes=off;auto_flush_rows=off;auto_flush_interval=off", (0, 0, 0)),
    ],
)
def test_auto_flush_and_its_triggers(settings: str, expected: tuple[int, int, int]) -> None:
    config = parse(f"ws::addr=h;{settings};")
    assert (config.auto_flush_rows, config.auto_flush_interval_millis, config.auto_flush_bytes) == expected


@pytest.mark.parametrize(
    ("value", "mode"),
    [(False, "off"), (True, "sync"), ("off", "off"), ("on", "sync"), ("sync", "sync"), ("async", "async")],
)
def test_initial_connect_modes_cfg_07(value: bool | str, mode: str) -> None:
    """CFG-07: all spellings of the three modes; a bool keyword means off or sync."""
    assert parse("ws::addr=h;", initial_connect_retry=value).initial_connect == mode


@pytest.mark.parametrize("key", ["max_duration", "initial_backoff", "max_backoff"])
def test_a_reconnect_key_promotes_to_sync_and_says_so(key: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="spoolq")
    name = f"reconnect_{key}_millis"
    assert parse(f"ws::addr=h;{name}=10;").initial_connect == "sync"
    (line,) = caplog.messages
    assert name in line
    assert "initial_connect_retry=off" in line


@pytest.mark.parametrize("mode", ["off", "async"])
def test_an_explicit_mode_is_not_promoted(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="spoolq")
    config = parse(f"ws::addr=h;reconnect_max_backoff_millis=10;initial_connect_retry={mode};")
    assert config.initial_connect == mode
    assert not caplog.messages


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_fast_close_differs_from_not_set_cfg_08(timeout: int) -> None:
    """CFG-08: 0 and -1 arrive as they are, and neither is the default of a timeout that is not set."""
    config = parse(f"ws::addr=h;close_flush_timeout_millis={timeout};")
    assert config.close_flush_timeout_millis == timeout
    assert "close_flush_timeout_millis" in config.explicit
    unset = parse("ws::addr=h;")
    assert unset.close_flush_timeout_millis == 5_000
    assert "close_flush_timeout_millis" not in unset.explicit


@pytest.mark.parametrize("category", ["schema", "parse", "internal", "security", "write"])
def test_drop_needs_a_place_for_dead_letters(category: str) -> None:
    """ours.md 27: an explicit choice, and never without the store."""
    with pytest.raises(ConfigError, match=f"on_{category}_error=drop needs sf_dir") as caught:
        parse(f"ws::addr=h;on_{category}_error=drop;")
    assert caught.value.key == f"on_{category}_error"
    assert "drop" in parse(f"ws::addr=h;on_{category}_error=drop;sf_dir=/nowhere;").policies.values()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("", {}),
        ("on_server_error=auto;", {}),
        ("on_write_error=halt;", {"write_error": "terminal"}),
        (
            "on_server_error=retriable_other;on_parse_error=terminal;",
            {
                "parse_error": "terminal",
                **dict.fromkeys(
                    ("schema_mismatch", "internal_error", "security_error", "write_error"), "retriable_other"
                ),
            },
        ),
    ],
)
def test_a_category_goes_before_on_server_error(settings: str, expected: dict[str, str]) -> None:
    config = parse(f"ws::addr=h;{settings}")
    assert config.policies == expected


# --- secrets -------------------------------------------------------------------------------------

SECRET = "hunter2secret"


def test_no_repr_shows_a_secret() -> None:
    for conf in (
        f"ws::addr=h;username=u;password={SECRET};",
        f"ws::addr=h;token={SECRET};",
        f"wss::addr=h;tls_roots={ROOTS};tls_roots_password={SECRET};",
    ):
        config = parse(conf)
        assert SECRET not in repr(config) + str(config)
        assert "Secret('***')" in repr(config)
        secret = config.password or config.token or config.tls_roots_password
        assert secret is not None
        assert secret.reveal() == SECRET
        assert SECRET not in f"{secret} {secret!r}"


@pytest.mark.parametrize(
    "conf",
    [
        f"ws::addr=h;password={SECRET};",
        f"ws::addr=h;token={SECRET};username=u;password={SECRET};",
        f"ws::addr=h;username=u;password={SECRET};password={SECRET};",
        f"ws::addr=h;token={SECRET}\x01;",
        f"ws::addr=h;username=u;password=a;{SECRET};",
        f"ws::addr=h;username=u;password=a;{SECRET}=b;",
        f"ws::addr=h;token=a;{SECRET}=;",
        f"ws::addr=u:{SECRET}@h:9000;",
        f"ws::addr=u:{SECRET}@h:9000,;",
        f"{SECRET}",
        f"ws:addr=h;token={SECRET}",
    ],
)
def test_no_error_shows_a_secret_cfg_03(conf: str) -> None:
    """CFG-03: what is wrong about or behind a secret is said without it, causes included."""
    with pytest.raises(ConfigError) as caught:
        parse(conf)
    error: BaseException | None = caught.value
    while error is not None:
        if not error.__suppress_context__:
            assert error.__context__ is None
        assert SECRET not in str(error)
        error = error.__cause__


@pytest.mark.parametrize("setting", ["username={};password=p", "username=u;password={}", "token={}"])
def test_credentials_that_no_request_can_hold_are_refused_cfg_03(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of an environment variable that are not UTF-8; the I/O thread's error showed the whole request."""
    key = setting.partition("={}")[0].rpartition(";")[2]
    conf = f"ws::addr=h;{setting};".format("hunter2\xe9")
    monkeypatch.setitem(os.environb, b"QDB_CLIENT_CONF", conf.encode("latin-1"))
    with pytest.raises(ConfigError, match=f"^{key}.*holds a byte that is not UTF-8") as caught:
        from_env()
    assert caught.value.key == key
    assert ("hunter2" in str(caught.value)) == (key == "username")
    str(caught.value).encode()


def test_a_refused_secret_is_not_shown_either_cfg_03() -> None:
    """No secret of today is refused for its own text; one that will be must not be shown."""

    def refuse(text: str) -> str:
        raise ValueError("is too short")

    key = next(key for key in KEYS if key.name == "token").replaced(read=refuse)
    with pytest.raises(ConfigError, match=r"^token \(value not shown\) is too short$"):
        _read(key, _Given("token", SECRET, True))
