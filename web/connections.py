"""Limits what a client can cost: connections that say nothing, large or slow bodies, many bodies at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 400  # most connections at a time; below the usual limit of 1,024 open files
HEAD_SECONDS = 10.0  # time for the head of a request
BODY_SECONDS = 30.0  # time for its body
BODY_BYTES = 32 * 2**20  # largest body
BODIES_BYTES = 256 * 2**20  # largest sum of the bodies that are being read or answered


class Protocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, but a connection has HEAD_SECONDS for the head of a request.

    If there are CONNECTIONS already, a new one takes the place of the oldest that has not sent one.
    """

    _silent: dict[Protocol, asyncio.TimerHandle] = {}  # noqa: RUF012  shared by the connections, the oldest first

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for a request, and makes room for it."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            next(iter(self._silent), self).cut()
        if not transport.is_closing():
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Handles what has come."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._spoke()
        super().connection_lost(exc)

    def cut(self) -> None:
        """Ends the connection at once."""
        self._spoke()
        self.transport.abort()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._spoke()
        elif self not in self._silent:
            self._silent[self] = self.loop.call_later(HEAD_SECONDS, self.cut)

    def _spoke(self) -> None:
        if timer := self._silent.pop(self, None):
            timer.cancel()


class BodyLimits:
    """Wraps an ASGI app, and refuses bodies that are too large, too slow, or too many at a time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._held = 0  # bytes of all bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on; the app meets an HTTPException where it reads a body beyond a limit."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > BODY_BYTES:
            await _answer(_refusal(413, TOO_LARGE))(scope, receive, send)
            return
        deadline, own, has_more = asyncio.get_running_loop().time() + BODY_SECONDS, 0, True

        async def limited() -> Message:
            nonlocal own, has_more
            try:
                async with asyncio.timeout_at(deadline if has_more else None):
                    message = await receive()
            except TimeoutError:
                raise _refusal(408, f"the body did not come within {BODY_SECONDS:.0f} s") from None
            has_more = message.get("more_body", False)
            own += (size := len(message.get("body", b"")))
            self._held += size
            if own > BODY_BYTES:
                raise _refusal(413, TOO_LARGE)
            if self._held > BODIES_BYTES:
                raise _refusal(503, "too many bodies are being read; ask again")
            return message

        try:
            await self.app(scope, limited, send)
        except HTTPException as error:  # where no handler of the app has met it
            await _answer(error)(scope, receive, send)
        finally:
            self._held -= own


TOO_LARGE = f"the body is larger than {BODY_BYTES // 2**20} MB"


def _refusal(status: int, why: str) -> HTTPException:
    """Returns an error that also ends the connection, so that the rest of the body is not waited for."""
    return HTTPException(status, why, {"Connection": "close"})


def _answer(error: HTTPException) -> JSONResponse:
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
