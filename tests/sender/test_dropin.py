"""Programs for the official client run here by another import, or fail with one error (ours.md 35).

`client` is one of the two modules: a test that takes it is one program, run with either.  The tables of
docs/migrating.md are held against the official client, so that no name of it is forgotten.
"""

from __future__ import annotations

import ast
import datetime
import importlib
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import questdb

import spoolq
from spoolq import dropin, errors, official
from spoolq.errors import ConfigError, SpoolqError, UnsupportedError
from spoolq.events import ConnectionEvent, ErrorEvent, SenderErrorCategory, SenderErrorPolicy
from spoolq.testing import Auth, Drop, QwpServer, Refuse, Reject, Script

from .harness import Recorder, free_port, numbers, unanswered, until

PAGE = Path(__file__).parents[2] / "docs" / "migrating.md"
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    INGRESS = importlib.import_module("questdb.ingress")


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer() as running:
        yield running


@pytest.fixture(params=[spoolq, questdb], ids=["spoolq", "questdb"])
def client(request: pytest.FixtureRequest) -> Any:
    module: ModuleType = request.param
    return module


def opened(client: Any, server: QwpServer[Any], **settings: Any) -> Any:
    """As a program does it that knows the official client."""
    sender = client.Sender("ws", "127.0.0.1", server.port, **{"auto_flush": False, **settings})
    sender.establish()
    return sender


def put(client: Any, sender: Any, number: int) -> Any:
    return sender.row("t", symbols={"s": f"sym-{number}"}, columns={"n": number}, at=client.TimestampMicros(number + 1))


# --- one program, both clients -------------------------------------------------------------------------


def test_35_row_returns_the_sender_and_flush_nothing(server: QwpServer, client: Any) -> None:
    sender = opened(client, server)
    assert put(client, sender, 0) is sender
    at = client.TimestampMicros(9)
    chained = sender.row("t", symbols={"s": "sym-1"}, columns={"n": 1}, at=at)
    assert chained.row(table_name="t", symbols={"s": "sym-2"}, columns={"n": 2}, at=at) is sender
    assert sender.flush() is None
    assert sender.flush(None) is None
    sender.close()
    assert numbers(server) == [0, 1, 2]


def test_35_row_returns_the_sender_when_it_trips_a_flush(server: QwpServer, client: Any) -> None:
    sender = opened(client, server, auto_flush=True, auto_flush_rows=2)
    assert put(client, sender, 0) is sender
    assert put(client, sender, 1) is sender
    assert sender.published_fsn() == 0
    sender.close()


def test_35_len_is_the_size_of_the_message_at_most(server: QwpServer, client: Any) -> None:
    with opened(client, server) if client is spoolq else client.Sender("ws", "127.0.0.1", server.port) as sender:
        sizes = [len(sender)]
        for number in range(50):
            put(client, sender, number)
            sizes.append(len(sender))
        sender.flush()
        assert sizes == sorted(sizes)
        assert len(sender) == sizes[0] == (0 if client is spoolq else 16)
        assert bytes(sender) == b""
    assert len(server.connections[0].messages[0]) <= sizes[-1]


def test_35_fsns_and_waits(server: QwpServer, client: Any) -> None:
    sender = opened(client, server)
    assert (sender.published_fsn(), sender.acked_fsn(), sender.flush_and_get_fsn()) == (None, None, None)
    put(client, sender, 0)
    assert sender.flush_and_get_fsn() == 0
    assert sender.await_acked_fsn(0) is True
    assert sender.await_acked_fsn(1, 20) is False
    put(client, sender, 1)
    assert sender.flush_and_get_fsn(None) == 1
    sender.close_drain()
    assert (sender.poll_error(), sender.error_events_dropped()) == (None, 0)
    sender.close(flush=True)
    sender.close()
    assert numbers(server) == [0, 1]


def test_35_close_without_a_flush_forgets_the_rows(server: QwpServer, client: Any) -> None:
    sender = opened(client, server)
    put(client, sender, 0)
    sender.await_acked_fsn(sender.flush_and_get_fsn())
    put(client, sender, 1)
    sender.close(flush=False)
    assert numbers(server) == [0]


def test_35_a_block_that_ends_by_an_exception_does_not_flush(server: QwpServer, client: Any) -> None:
    conf = f"ws::addr=127.0.0.1:{server.port};auto_flush=off;"

    def program() -> None:
        with client.Sender.from_conf(conf_str=conf) as sender:
            put(client, sender, 0)
            sender.await_acked_fsn(sender.flush_and_get_fsn())
            put(client, sender, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        program()
    assert numbers(server) == [0]


def test_35_from_env(server: QwpServer, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDB_CLIENT_CONF", f"ws::addr=127.0.0.1:{server.port};")
    with client.Sender.from_env(auto_flush_rows=7) as sender:
        assert sender.auto_flush_rows == 7
        put(client, sender, 0)
    assert numbers(server) == [0]


def test_35_the_settings_can_be_read(server: QwpServer, client: Any) -> None:
    given = {
        "auto_flush": True,
        "auto_flush_rows": 70,
        "auto_flush_bytes": 50_000,
        "auto_flush_interval": datetime.timedelta(seconds=2),
        "init_buf_size": 4_096,
        "max_name_len": 100,
        "protocol_version": "auto",
    }
    sender = opened(client, server, **given)
    for name, value in {**given, "protocol_version": 1}.items():
        assert getattr(sender, name) == value, name
    sender.close()
    sender = opened(client, server, auto_flush_rows=None)
    for name in ("auto_flush_rows", "auto_flush_bytes", "auto_flush_interval"):
        assert getattr(sender, name) is None, name
    assert sender.auto_flush is False
    sender.close()


def test_35_auto_flush_bytes_is_lowered_to_the_servers_limit(client: Any) -> None:
    with QwpServer(receive_buffer_nbytes=100_014) as small:
        sender = opened(client, small, auto_flush=True, auto_flush_bytes=1_000_000)
        assert sender.auto_flush_bytes == 90_000
        sender.close()


def test_35_enums_where_strings_do(server: QwpServer, client: Any) -> None:
    progress = client.QwpWsProgress.Background
    sender = client.Sender(client.Protocol.Ws, "127.0.0.1", server.port, qwp_ws_progress=progress)
    sender.establish()
    put(client, sender, 0)
    sender.close()
    assert numbers(server) == [0]
    assert (client.Protocol.Wss.tls_enabled, client.Protocol.Ws.tls_enabled) == (True, False)
    assert client.ConnectionEventKind.parse("failed_over") is client.ConnectionEventKind.FailedOver
    assert client.ConnectionEventKind.parse(None) is None
    with pytest.raises(ValueError, match="bogus"):
        client.TlsCa.parse("bogus")


def test_35_a_refusal_reaches_the_handler_and_the_caller_with_its_fields(server: QwpServer, client: Any) -> None:
    server.set_script(Script(reject=(Reject(0, 3, "no such column"),)))
    handler = Recorder()
    sender = opened(client, server, error_handler=handler)
    put(client, sender, 0)
    with unanswered(server):
        fsn = sender.flush_and_get_fsn()
    with pytest.raises(client.QuestDBError) as caught:
        sender.await_acked_fsn(fsn, 5_000)
    assert isinstance(caught.value, client.QuestDBServerRejectionError)
    assert caught.value.code is client.QuestDBErrorCode.ServerRejection
    assert caught.value.in_doubt is False
    with pytest.raises(client.QuestDBServerRejectionError):
        sender.flush()  # where the official client calls the handler of what came before the wait began
    for diagnostic in (caught.value.sender_error, handler.wait_for(), sender.poll_error()):
        assert isinstance(diagnostic, client.SenderError)
        assert diagnostic.category is client.SenderErrorCategory.SchemaMismatch
        assert diagnostic.category.tag == "schema_mismatch"
        assert diagnostic.applied_policy is client.SenderErrorPolicy.Terminal
        assert (diagnostic.status, diagnostic.message, diagnostic.message_sequence) == (3, "no such column", 0)
        assert (diagnostic.from_fsn, diagnostic.to_fsn) == (fsn, fsn)
    try:
        sender.close()
    except client.QuestDBServerRejectionError:
        assert client is spoolq, "the official client's close says nothing"


def test_35_connection_events_have_the_fields(server: QwpServer, client: Any) -> None:
    dead, listener, kinds = free_port(), Recorder(), client.ConnectionEventKind
    conf = f"ws::addr=127.0.0.1:{dead},127.0.0.1:{server.port};auto_flush=off;"
    sender = client.Sender.from_conf(conf, connection_listener=listener)
    sender.establish()
    failed = listener.wait_for(lambda event: event.kind is kinds.EndpointAttemptFailed)
    assert (failed.host, failed.port, failed.previous_host, failed.previous_port) == (
        "127.0.0.1",
        str(dead),
        None,
        None,
    )
    assert failed.attempt_number == 1
    assert "refused" in failed.cause_msg
    connected = listener.wait_for(lambda event: event.kind == kinds.Connected)
    assert (connected.port, connected.cause_msg) == (str(server.port), None)
    year_2020, now = 1_577_836_800_000, datetime.datetime.now(datetime.UTC).timestamp() * 1_000
    assert year_2020 < connected.timestamp_millis <= now + 1
    assert sender.connection_events_dropped == 0
    until(lambda: sender.connection_events_delivered >= 2 or client is questdb)  # counted when the listener is back
    sender.close()


def code_of(client: Any, call: Callable[[], object]) -> str:
    with pytest.raises(client.QuestDBError) as caught:
        call()
    found: str = caught.value.code.name
    return found


ROWS = {
    "InvalidName": {"columns": {"a?b": 1}},
    "InvalidTimestamp": {"columns": {"n": 1}, "at": None},
    "InvalidUtf8": {"columns": {"n": "\ud800"}},
    "ArrayError": {"columns": {"n": numpy.zeros(2, "int32")}},
    "BatchTooLarge": {"columns": {"n": b"x" * 3_000_000}},
}


@pytest.mark.parametrize("code", ROWS)
def test_35_codes_of_a_row(server: QwpServer, client: Any, code: str) -> None:
    sender = opened(client, server)
    given = {"at": client.TimestampMicros(1), **ROWS[code]}

    def send() -> None:
        sender.row("t", **given)
        sender.flush()  # where the official client finds a row too large

    assert code_of(client, send) == code
    sender.close(flush=False)


def open_to(client: Any, conf: str, **settings: Any) -> None:
    client.Sender.from_conf(conf, **settings).establish()


def test_35_codes_of_opening(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QDB_CLIENT_CONF", raising=False)
    assert code_of(client, lambda: open_to(client, "ws::addr=h;bogus=1;")) == "ConfigError"
    assert code_of(client, lambda: open_to(client, "ws::")) == "ConfigError"
    assert code_of(client, client.Sender.from_env) == "ConfigError"
    assert code_of(client, lambda: open_to(client, f"ws::addr=127.0.0.1:{free_port()};")) == "SocketError"
    with QwpServer(auth=Auth(users={"joe": "right"})) as guarded:
        conf = f"ws::addr=127.0.0.1:{guarded.port};username=joe;password=wrong;"
        assert code_of(client, lambda: open_to(client, conf)) == "AuthError"
    with QwpServer() as replica:
        replica.set_script(Script(refuse=Refuse(421, role="REPLICA")))
        assert code_of(client, lambda: open_to(client, f"ws::addr=127.0.0.1:{replica.port};")) == "RoleMismatch"
    with QwpServer() as plain:
        conf = f"ws::addr=127.0.0.1:{plain.port};request_durable_ack=on;"
        assert code_of(client, lambda: open_to(client, conf)) == "ProtocolVersionError"
        conf = f"ws::addr=127.0.0.1:{plain.port};sf_dir={tmp_path};"
        first = client.Sender.from_conf(conf)
        first.establish()
        assert code_of(client, lambda: open_to(client, conf)) == "SocketError"
        first.close()


def test_35_codes_of_an_end_without_the_acknowledgement(server: QwpServer, client: Any) -> None:
    sender = client.Sender.from_conf(f"ws::addr=127.0.0.1:{server.port};close_flush_timeout_millis=50;")
    sender.establish()
    server.hold_acks()
    put(client, sender, 0)
    assert code_of(client, sender.close) == "SocketError"
    for call in (sender.establish, sender.flush, lambda: put(client, sender, 0)):
        assert code_of(client, call) == "InvalidApiCall"


def test_35_codes_of_a_full_queue(server: QwpServer, client: Any) -> None:
    small = "sf_max_segment_bytes=65536;sf_max_total_bytes=131072;sf_append_deadline_millis=50;"
    sender = client.Sender.from_conf(f"ws::addr=127.0.0.1:{server.port};auto_flush=off;{small}")
    sender.establish()
    server.hold_acks()

    def fill() -> None:
        for _ in range(8):
            sender.row("t", columns={"b": b"x" * 50_000}, at=client.TimestampMicros(1))
            sender.flush()

    assert code_of(client, fill) == "SocketError"
    server.release_acks()
    sender.close(flush=False)


def test_35_what_means_nothing_over_ws_is_a_questdb_error_in_both(server: QwpServer, client: Any) -> None:
    sender = opened(client, server)
    assert code_of(client, lambda: sender.transaction("t")) == "InvalidApiCall"
    assert code_of(client, lambda: sender.drive_once()) == "InvalidApiCall"
    sender.close()


@pytest.mark.parametrize("name", ["error_handler", "connection_listener"])
def test_35_a_handler_that_cannot_be_called_is_found_at_once(server: QwpServer, client: Any, name: str) -> None:
    with pytest.raises((TypeError, ConfigError), match=name):
        opened(client, server, **{name: 3})


# --- what is ours alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", dropin.REFUSED)
def test_35_a_name_that_is_refused_says_what_takes_its_place(server: QwpServer, name: str) -> None:
    assert hasattr(questdb.Sender, name), "it is a name of 6.0.0"
    with opened(spoolq, server) as sender:
        with pytest.raises(UnsupportedError) as caught:
            getattr(sender, name)
        assert str(caught.value) == f"spoolq's Sender has no {name}: {dropin.REFUSED[name]}"
        assert not hasattr(sender, name), "a program that asks first goes on"
        with pytest.raises(AttributeError, match="no attribute 'bogus'") as other:
            _ = sender.bogus
        assert not isinstance(other.value, SpoolqError)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"buffer": object()}, "flush takes no buffer: rows are buffered in the sender itself"),
        ({"clear": False}, "flush has no clear=False: a flush hands its rows over"),
        ({"transactional": True}, "flush has no transactional=True: every flush commits"),
    ],
)
def test_35_arguments_of_flush_that_mean_nothing_publish_nothing(
    server: QwpServer, given: dict[str, Any], says: str
) -> None:
    with opened(spoolq, server) as sender:
        put(spoolq, sender, 0)
        with pytest.raises(UnsupportedError, match=re.escape(says)):
            sender.flush(**given)
        if "buffer" in given:
            with pytest.raises(UnsupportedError, match=re.escape(says)):
                sender.flush_and_get_fsn(**given)
        assert sender.published_fsn() is None
    assert numbers(server) == [0]


def test_35_connect_says_what_takes_its_place() -> None:
    for call in (lambda: spoolq.connect("ws::addr=h;"), lambda: spoolq.connect(host="h", port=9000, tls=True)):
        with pytest.raises(UnsupportedError, match=r"spoolq has no connect\(\): it has no pool.*Sender\.from_conf"):
            call()


@pytest.mark.parametrize("name", official.REFUSED)
def test_35_a_class_that_is_refused_says_so_at_the_import(name: str) -> None:
    assert hasattr(questdb, name) or hasattr(INGRESS, name), "it is a name of 6.0.0"
    with pytest.raises(ImportError) as caught:
        exec(f"from spoolq import {name}", {})
    assert str(caught.value) == f"spoolq has no {name}: {official.REFUSED[name]}"


def test_35_a_name_of_nobody_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'spoolq' has no attribute 'bogus'"):
        _ = spoolq.bogus  # type: ignore[attr-defined]
    assert spoolq.__version__ == spoolq.VERSION  # type: ignore[attr-defined]


def test_35_the_cause_of_a_connection_event_has_no_code() -> None:
    event = ConnectionEvent(
        spoolq.ConnectionEventKind.FailedOver, "[::1]:9000", "db:9001", 3, 1, "", datetime.datetime.now(datetime.UTC)
    )
    assert (event.host, event.port, event.previous_host, event.previous_port) == ("::1", "9000", "db", "9001")
    with pytest.raises(UnsupportedError, match="no cause_code: cause"):
        _ = event.cause_code


def test_35_the_sender_error_is_there_for_who_latched_first_and_for_copies(server: QwpServer) -> None:
    """A terminal error that is no refusal has none, as there."""
    server.set_script([Script(drop=Drop(after_frames=0)), Script(refuse=Refuse(401))])
    sender = opened(spoolq, server, close_flush_timeout_millis=0)
    with pytest.raises(spoolq.AuthError) as caught:
        sender.await_acked_fsn(0, 5_000)
    assert caught.value.sender_error is None
    with pytest.raises(spoolq.AuthError):
        sender.close()
    rejection = errors.ServerRejection("no", category="parse_error")
    rejection.sender_error = event = ErrorEvent(
        SenderErrorCategory.ParseError,
        SenderErrorPolicy.Terminal,
        5,
        "no",
        0,
        0,
        0,
        datetime.datetime.now(datetime.UTC),
    )
    copy = errors.fresh(rejection, in_doubt=True)
    assert (copy.sender_error, copy.in_doubt) == (event, True)


def test_35_every_category_and_policy_has_a_name() -> None:
    """An unnamed one would end the thread that tells it."""
    from spoolq.delivery import policy

    named = {*re.findall(r"^\| (\w+) +\|", policy.__doc__ or "", re.MULTILINE)} - {"category"}
    assert named == {*SenderErrorCategory} - {"client_fault", "slot_unreplayable"}
    assert {*SenderErrorPolicy} == policy.CHOICES | {"set_aside"}


def test_35_events_read_as_strings() -> None:
    kind = spoolq.ConnectionEventKind.FailedOver
    assert (f"{kind}", repr(kind), str(kind), kind.tag) == (
        "failed_over",
        "'failed_over'",
        "failed_over",
        "failed_over",
    )


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("auto_flush_interval", datetime.timedelta(microseconds=1_500), "is not a whole number of milliseconds"),
        ("auto_flush_rows", datetime.timedelta(seconds=1), "takes a str, int, bool or path, not timedelta"),
    ],
)
def test_35_a_timedelta_is_whole_milliseconds_of_a_setting_of_time(name: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        spoolq.Sender("ws", "192.0.2.1", 9, **{name: value})
    assert caught.value.key == name


# --- docs/migrating.md -----------------------------------------------------------------------------------


def table(title: str) -> dict[str, list[str]]:
    """The rows of one table: name -> the other cells."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")
    rows = re.findall(r"^\| `([\w.]+)` \|(.*)\|$", rest.partition("\n## ")[0], re.MULTILINE)
    names = [name for name, _ in rows]
    assert len(names) == len({*names}), names
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def refusal(rows: dict[str, list[str]], name: str) -> str:
    text = rows[name][1]
    return rows[text.removeprefix("as `").removesuffix("`")][1] if text.startswith("as `") else text


def test_35_the_page_lists_every_name_of_the_module() -> None:
    rows = table("Module")
    there = {*questdb.__all__, *INGRESS.__all__, "TaggedEnum", "VERSION"}
    assert {*rows} == there
    public = {name for name in vars(questdb) if not name.startswith("_")}
    assert public - {"ingress"} <= there, "that one is a module"
    for name, (here, _) in rows.items():
        if name == "connect":
            assert refusal(rows, name) in official.REFUSED["QuestDB"]
        elif here == "refused":
            assert refusal(rows, name) == official.REFUSED[name]
        else:
            assert here in ("same", "alias", "differs"), name
            assert getattr(spoolq, name) is not None
    assert {name for name, (here, _) in rows.items() if here == "refused"} == {*official.REFUSED, "connect"}


def test_35_the_page_lists_every_name_of_the_sender() -> None:
    rows = table("Sender")
    dunders = {name for name in vars(questdb.Sender) if name in ("__len__", "__bytes__", "__enter__", "__exit__")}
    assert {*rows} == {name for name in dir(questdb.Sender) if not name.startswith("_")} | dunders
    for name, (here, _) in rows.items():
        if here == "refused":
            assert refusal(rows, name) == dropin.REFUSED[name]
        else:
            assert here in ("same", "alias", "differs"), name
            assert hasattr(spoolq.Sender, name)
    assert {name for name, (here, _) in rows.items() if here == "refused"} == {*dropin.REFUSED}


def keywords_there() -> set[str]:
    """Of its constructor, from its stubs: the type itself does not tell."""
    stubs = ast.parse((Path(questdb.__file__).parent / "_client.pyi").read_text(encoding="utf-8"))
    (of_sender,) = (node for node in stubs.body if isinstance(node, ast.ClassDef) and node.name == "Sender")
    (init,) = (node for node in of_sender.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return {argument.arg for argument in (*init.args.args[1:], *init.args.kwonlyargs)}


@pytest.fixture
def taken(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """A value for each keyword that is taken, with what has to stand beside it."""
    import trustme

    authority = trustme.CA()
    roots = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(str(roots))
    secure = {"protocol": official.Protocol.Wss}
    basic = {"username": "joe", "password": "secret"}
    return {
        **{name: {} for name in ("protocol", "host", "port")},
        **dict.fromkeys(basic, basic),
        "token": {"token": "t"},
        "tls_verify": {"tls_verify": False, **secure},
        "tls_ca": {"tls_ca": official.TlsCa.OsRoots, **secure},
        "tls_roots": {"tls_roots": roots, **secure},
        "tls_roots_password": {"tls_roots": roots, "tls_roots_password": "secret", **secure},
        "max_buf_size": {"max_buf_size": 4_096},
        "auto_flush": {"auto_flush": False},
        "auto_flush_rows": {"auto_flush_rows": 7},
        "auto_flush_bytes": {"auto_flush_bytes": False},
        "auto_flush_interval": {"auto_flush_interval": False},
        "qwp_ws_progress": {"qwp_ws_progress": official.QwpWsProgress.Background},
        "error_handler": {"error_handler": print},
        "connection_listener": {"connection_listener": print},
        "protocol_version": {"protocol_version": "auto"},
        "init_buf_size": {"init_buf_size": 4_096},
        "max_name_len": {"max_name_len": 64},
    }


def test_35_the_page_lists_every_keyword(taken: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table("Keywords of Sender")
    assert {*rows} == keywords_there()
    assert {name for name, (here, _) in rows.items() if here != "refused"} == {*taken}
    made: list[Any] = []
    monkeypatch.setattr("spoolq.sender.Engine", lambda config, **_: made.append(config) or FakeEngine())
    for name, (here, text) in rows.items():
        if here == "refused":
            with pytest.raises(ConfigError, match=re.escape(f"{name} is not taken here: {text}")) as caught:
                spoolq.Sender("ws", "h", 1, **{name: 1})
            assert caught.value.key == name
        else:
            assert here in ("same", "differs"), name
            spoolq.Sender(**{"protocol": "ws", "host": "h", "port": 1, **taken[name]})
    assert len(made) == len(taken)
    assert [config.tls_verify for config in made].count(False) == 1


class FakeEngine:
    """For what only looks at the settings: nothing is opened."""

    class Rows:
        row_result: object = None
        row = rows = None

    rows = Rows()

    def open(self) -> None:
        """Nothing."""


def test_35_the_page_lists_every_field_of_the_events() -> None:
    rows = table("Events")
    there = {f"SenderError.{field.name}" for field in fields(questdb.SenderError)}
    there |= {f"ConnectionEvent.{field.name}" for field in fields(questdb.ConnectionEvent)}
    assert {*rows} == there
    for name, (here, _) in rows.items():
        of, _, attribute = name.partition(".")
        assert hasattr(getattr(spoolq, of), attribute), name
        assert here in ("same", "alias", "differs") or name == "ConnectionEvent.cause_code"


@pytest.mark.parametrize(
    "name", ["ConnectionEventKind", "SenderErrorCategory", "SenderErrorPolicy", "Protocol", "TlsCa"]
)
def test_35_the_enums_have_every_member(name: str) -> None:
    theirs, ours = getattr(questdb, name), getattr(spoolq, name)
    assert {member.name: member.tag for member in theirs}.items() <= {m.name: m.tag for m in ours}.items()


def test_35_the_codes_have_the_same_names_and_numbers() -> None:
    assert {m.name: m.value for m in questdb.QuestDBErrorCode} == {m.name: m.value for m in spoolq.QuestDBErrorCode}


def every_error() -> list[type[SpoolqError]]:
    found, todo = [], [SpoolqError]
    while todo:
        found.append(todo.pop())
        todo += found[-1].__subclasses__()
    return [kind for kind in found if kind.__module__ == "spoolq.errors"]


def test_35_the_page_lists_every_code_and_every_error() -> None:
    rows = table("Codes")
    assert {*rows} == {member.name for member in questdb.QuestDBErrorCode}
    told = {name: {*re.findall(r"`(\w+)`(?! about)", cells[0])} - {"at"} for name, cells in rows.items()}
    assert {name: kinds for name, kinds in told.items() if kinds} == {
        code: {kind.__name__ for kind in every_error() if kind.code_name == code}
        for code in {kind.code_name for kind in every_error()}
    }
