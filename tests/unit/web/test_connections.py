"""What clients cannot do to the server: hold connections, send bodies without end, send many at a time."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from web import connections
from web.connections import BodyLimits, Protocol
from web.server import _listen

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


async def length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        limits = {"CONNECTIONS": 10, "HEAD_SECONDS": 0.5, "BODY_SECONDS": 0.5, "BODY_BYTES": 1000, "BODIES_BYTES": 1500}
        for name, value in limits.items():
            patch.setattr(connections, name, value)
        app = Starlette(routes=[Route("/", length, methods=["POST"])], middleware=[Middleware(BodyLimits)])
        server = uvicorn.Server(uvicorn.Config(app, http=Protocol, ws="none", log_level="error"))
        listening = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=[[listening]])
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def ask(port: int, body: bytes = b"hello") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/", body)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def opened(port: int, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(sent)
    return client


def answered(client: socket.socket) -> bytes:
    """What the server sends until it ends the connection."""
    found = b""
    try:
        while part := client.recv(4096):
            found += part
    except ConnectionResetError:
        pass
    client.close()
    return found


def test_a_connection_without_a_request_is_cut(port: int) -> None:
    for sent in (b"", b"POST / HTTP/1.1\r\nHost"):
        start = time.monotonic()
        assert answered(opened(port, sent)) == b""
        assert 0.3 < time.monotonic() - start < 8


def test_many_connections_make_room_for_one_that_asks(port: int) -> None:
    held = [opened(port) for _ in range(100)]
    assert ask(port) == (200, "5")
    assert {answered(client) for client in held} == {b""}


def test_a_body_that_is_too_large_is_refused(port: int) -> None:
    assert answered(opened(port, HEAD % 1001)).startswith(b"HTTP/1.1 413 ")
    chunked = HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked") + b"7d0\r\n" + bytes(2000) + b"\r\n"
    assert b" 413 " in answered(opened(port, chunked)).partition(b"\r\n")[0]
    assert ask(port, bytes(1000)) == (200, "1000")


def test_a_body_that_is_too_slow_is_refused(port: int) -> None:
    found = answered(opened(port, HEAD % 10 + b"slow"))
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not come within" in found


def test_bodies_share_what_memory_they_may_take(port: int) -> None:
    first = opened(port, HEAD % 1000 + bytes(900))
    time.sleep(0.1)
    second = answered(opened(port, HEAD % 1000 + bytes(900)))
    assert second.startswith(b"HTTP/1.1 503 ")
    assert answered(first).startswith(b"HTTP/1.1 408 ")
    assert ask(port, bytes(1000)) == (200, "1000"), "what was held is free again"


def test_the_body_of_an_answer_does_not_wait_until_its_head_is_acknowledged() -> None:
    """TCP_NODELAY, without which a client waits 40 ms for each answer."""
    with _listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
