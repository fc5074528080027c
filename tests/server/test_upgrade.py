"""Every row of wire.md 1.3 and 1.2 from a raw socket."""

from __future__ import annotations

import base64

import pytest

from spoolq.server import Auth, QwpServer, Script

from .raw_client import KEY, RawClient, good_headers, ok, one_row


def answer(server: QwpServer, headers: dict[str, str], path: str = "/write/v4") -> tuple[int, dict[str, str], bytes]:
    """Status, headers, and everything behind the head; a refusal always ends the connection."""
    with RawClient(server.port) as client:
        client.request(headers, path)
        status, found = client.response()
        return status, found, client.read_to_end() if status != 101 else b""


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in good_headers().items() if key != name}


@pytest.mark.parametrize("path", ["/write/v4", "/api/v4/write"])
def test_both_paths_upgrade(path: str) -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.request(path=path)
        status, headers = client.response()
        assert status == 101
        assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert headers["x-qwp-version"] == "1"
        assert headers["x-questdb-role"] == "STANDALONE"
        assert headers["x-qwp-max-batch-size"] == "2097138"
        assert "x-qwp-durable-ack" not in headers


def test_the_order_of_the_101s_headers() -> None:
    with QwpServer(durable_ack=True) as server, RawClient(server.port) as client:
        headers = client.upgrade(X_QWP_Request_Durable_Ack="TRUE")
    assert list(headers) == [
        *("upgrade", "connection", "sec-websocket-accept", "x-qwp-version", "x-qwp-durable-ack"),
        *("x-questdb-role", "x-qwp-max-batch-size"),
    ]
    assert headers["x-qwp-durable-ack"] == "enabled"


REFUSED = {
    "origin": (good_headers() | {"Origin": "http://a"}, 400, b"Origin"),
    "no upgrade": (without("Upgrade"), 400, b"Missing Upgrade"),
    "wrong upgrade": (good_headers() | {"Upgrade": "websocket2"}, 400, b"Invalid Upgrade"),
    "no connection": (without("Connection"), 400, b"Missing Connection"),
    "wrong connection": (good_headers() | {"Connection": "keep-alive, upgrade2"}, 400, b"Invalid Connection"),
    "no key": (without("Sec-WebSocket-Key"), 400, b"Missing Sec-WebSocket-Key"),
    "short key": (good_headers() | {"Sec-WebSocket-Key": KEY[:-1]}, 400, b"Invalid Sec-WebSocket-Key"),
    "odd key": (good_headers() | {"Sec-WebSocket-Key": "!" * 24}, 400, b"Invalid Sec-WebSocket-Key"),
    "no version": (without("Sec-WebSocket-Version"), 426, b""),
    "version 8": (good_headers() | {"Sec-WebSocket-Version": "8"}, 426, b""),
    "version x": (good_headers() | {"Sec-WebSocket-Version": "x"}, 426, b""),
    # several faults: the first one in the order of the table is named
    "all": ({"Host": "x", "Origin": "http://a"}, 400, b"Origin"),
    "upgrade before connection": ({"Host": "x"}, 400, b"Missing Upgrade"),
    "key before version": ({"Upgrade": "websocket", "Connection": "upgrade"}, 400, b"Missing Sec-WebSocket-Key"),
}


@pytest.mark.parametrize(("headers", "status", "body"), REFUSED.values(), ids=REFUSED)
def test_a_bad_handshake_is_refused_and_the_connection_ends(headers: dict[str, str], status: int, body: bytes) -> None:
    with QwpServer() as server:
        found, response_headers, text = answer(server, headers)
        assert server.connections[0].closed_by == "server_refusal"
    assert found == status
    assert body in text
    assert response_headers["content-length"] == str(len(text))
    if status == 400:
        assert response_headers["content-type"] == "text/plain"
    else:
        assert response_headers["sec-websocket-version"] == "13"
        assert response_headers["upgrade"] == "websocket"
        assert response_headers["connection"] == "Upgrade"


TAKEN = {
    "case": {"Upgrade": "WebSocket", "Connection": "keep-alive, UPGRADE"},
    "no max version": {"X-QWP-Max-Version": ""},
    "max version 0": {"X-QWP-Max-Version": "0"},
    "max version x": {"X-QWP-Max-Version": "x"},
    "max version 9": {"X-QWP-Max-Version": "9"},
    "client id": {"X-QWP-Client-Id": "go/4.3.0"},
    "durable ack asked, not granted": {"X-QWP-Request-Durable-Ack": "true"},
}


@pytest.mark.parametrize("headers", TAKEN.values(), ids=TAKEN)
def test_what_is_no_reason_to_refuse(headers: dict[str, str]) -> None:
    with QwpServer() as server:
        status, found, _ = answer(server, good_headers() | headers)
    assert status == 101
    assert found["x-qwp-version"] == "1"
    assert "x-qwp-durable-ack" not in found


@pytest.mark.parametrize("role", ["REPLICA", "PRIMARY_CATCHUP"])
def test_a_node_that_takes_no_writes(role: str) -> None:
    with QwpServer(role=role) as server:
        status, headers, body = answer(server, good_headers())
        bad, _, _ = answer(server, without("Upgrade"))
    assert (status, headers["x-questdb-role"], headers["content-length"], body) == (421, role, "0", b"")
    assert headers["connection"] == "close"
    assert bad == 400  # the role is looked at last


BY_COMMAND = {
    "401": (401, None, None, "no such user"),
    "403": (403, None, None, "not you"),
    "421 and a role": (421, "REPLICA", None, ""),
    "421 without one": (421, None, None, ""),
    "503 and Retry-After": (503, None, 7, "come back"),
    "500": (500, None, None, ""),
    "429": (429, None, 1, ""),
}


@pytest.mark.parametrize(("status", "role", "seconds", "body"), BY_COMMAND.values(), ids=BY_COMMAND)
def test_wire_1_3_what_stands_before_a_server_refuses(
    status: int, role: str | None, seconds: int | None, body: str
) -> None:
    """The rows that are no fault of the request (a proxy, a gate, overload): by `refuse_new`, until `accept_new`."""
    with QwpServer() as server:
        server.refuse_new(status, role=role, body=body, retry_after_seconds=seconds)
        found, headers, text = answer(server, good_headers())
        assert (found, text.decode()) == (status, body)
        assert (headers.get("x-questdb-role"), headers.get("retry-after")) == (role, seconds and str(seconds))
        assert server.connections[0].closed_by == "server_refusal"
        server.accept_new()
        assert answer(server, good_headers())[0] == 101


def test_nothing_comes_behind_the_101_until_the_client_sends() -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        assert client.ping() == []
        assert client.rest == b""


def test_another_path_is_404() -> None:
    with QwpServer() as server:
        assert answer(server, good_headers(), "/write/v5")[0] == 404


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


AUTH = Auth(users={"ann": "päss:word"}, tokens=frozenset({"tok-1"}))
CREDENTIALS = {
    "none": ({}, 401),
    "basic": ({"Authorization": basic("ann", "päss:word")}, 101),
    "basic, scheme in small letters": ({"Authorization": basic("ann", "päss:word").replace("Basic", "basic")}, 101),
    "wrong password": ({"Authorization": basic("ann", "pass")}, 401),
    "wrong user": ({"Authorization": basic("bob", "päss:word")}, 401),
    "bearer": ({"Authorization": "Bearer tok-1"}, 101),
    "wrong token": ({"Authorization": "Bearer tok-2"}, 401),
    "other scheme": ({"Authorization": "Digest tok-1"}, 401),
    "empty": ({"Authorization": ""}, 401),
}


@pytest.mark.parametrize(("headers", "status"), CREDENTIALS.values(), ids=CREDENTIALS)
def test_credentials(headers: dict[str, str], status: int) -> None:
    with QwpServer(auth=AUTH) as server:
        assert answer(server, good_headers() | headers)[0] == status


def test_credentials_are_in_no_repr() -> None:
    with QwpServer(auth=AUTH) as server:
        answer(server, good_headers() | {"Authorization": "Bearer tok-1"})
        assert "tok-1" not in repr(server.connections) + repr(server.options)


def test_bytes_behind_the_request_belong_to_the_stream() -> None:
    from .raw_client import BINARY, frame

    with QwpServer() as server, RawClient(server.port) as client:
        head = "\r\n".join(["GET /write/v4 HTTP/1.1", *(f"{k}: {v}" for k, v in good_headers().items()), "", ""])
        client.send(head.encode() + frame(BINARY, one_row()))
        assert client.response()[0] == 101
        assert client.answer() == ok(0, ("t", 1))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_request_in_pieces(size: int) -> None:
    """Without a socket: the kernel would join the pieces."""
    from .test_script import REQUEST, Machine

    machine = Machine(Script())
    out = b"".join(machine.put(REQUEST[at : at + size]) for at in range(0, len(REQUEST), size))
    assert out.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(("value", "granted"), [("true", True), ("TRUE", True), ("yes", False), ("1", False)])
def test_durable_ack_is_asked_for_by_one_word(value: str, granted: bool) -> None:
    with QwpServer(durable_ack=True) as server:
        status, headers, _ = answer(server, good_headers() | {"X-QWP-Request-Durable-Ack": value})
    assert status == 101
    assert ("x-qwp-durable-ack" in headers) == granted
