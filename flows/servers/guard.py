"""Guards the servers: only requests of their own pages and of programs outside a browser are answered.

    python -m uvicorn --factory flows.servers.guard:prefect --port 4200

Prefect's server answers any origin and any Host, and a deployment can run a shell. Without a guard, any web page in the
user's browser could run code, by requests to 127.0.0.1 or, through its own name for that address (DNS rebinding), as
the same origin.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from flows.servers.access import USER, is_wildcard
from tasks.lifeline import end_with_starter
from tasks.workspace.environment import HOST, PASSWORD

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEALTH = "/health"  # answered without a password
CHOICES = {  # what MLflow's page keeps in the browser
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",  # or an assistant's pane opens beside the runs
}


class Guard:
    """Wraps an ASGI app, and refuses requests of another origin, for another host, or without the password.

    Browsers send Origin with every request that changes something and with every websocket; other programs send none.

    Args:
        app: The app.
        host: The address where the server listens; at a wildcard any Host is accepted, and the password protects it.
        password: Required by HTTP's basic authentication; None if the app itself asks for one, or none is needed.
    """

    def __init__(self, app: ASGIApp, host: str, password: str | None = None) -> None:
        self.app = app
        self.hosts = None if is_wildcard(host) else (*LOOPBACK, host.lower())
        self.password = password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on to the app."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if why := self._refused(headers):
            refusal = PlainTextResponse(f"{why}\n", 403) if scope["type"] == "http" else WebSocketClose(1008, why)
            await refusal(scope, receive, send)
        elif scope["path"] != HEALTH and not self._knows_password(headers):
            ask = {"WWW-Authenticate": f'Basic realm="Trackway: the user is {USER}"'}
            await PlainTextResponse("a password is needed\n", 401, ask)(scope, receive, send)
        else:
            await self.app(scope, receive, _unframed(send))

    def _refused(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            if self.hosts and urlsplit(f"//{host}").hostname not in self.hosts:
                return f"this server is not {host}"
            if origin is not None and urlsplit(origin).netloc != host:
                return f"pages of {origin} may not ask this server"
        except ValueError:
            return "the Host or Origin header is no address"
        return None

    def _knows_password(self, headers: Headers) -> bool:
        if self.password is None:
            return True
        expected = b"Basic " + base64.b64encode(f"{USER}:{self.password}".encode())
        return hmac.compare_digest(headers.get("authorization", "").encode(), expected)


def _unframed(send: Send) -> Send:
    """Forbids other pages to show the responses in a frame, where users would not know what they click on."""

    async def add_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-frame-options", b"SAMEORIGIN")]
        await send(message)

    return add_header


def prefect() -> ASGIApp:
    """Returns Prefect's server, guarded; it asks for the password itself, and ends with the flow that started it."""
    from prefect.server.api.server import create_app

    end_with_starter()
    return Guard(create_app(final=True), os.environ[HOST])


def opens_on_trainings(app: ASGIApp, file: Path) -> ASGIApp:
    """Has MLflow's page open on training runs; in a browser that has not chosen yet it would open on "GenAI".

    MLflow's page keeps that choice in the browser's localStorage, and no setting of the server decides it.

    Args:
        app: MLflow's app.
        file: Its page.
    """
    first = f"for (const [key, value] of Object.entries({json.dumps(CHOICES)})) localStorage[key] ??= value"
    page = HTMLResponse(file.read_text("utf-8").replace("<head>", f"<head><script>{first}</script>", 1))

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
        await (page if is_page else app)(scope, receive, send)

    return answer


def mlflow() -> ASGIApp:
    """Returns MLflow's server, guarded, with the settings that `mlflow server` gives its workers.

    As with `mlflow server`, MLFLOW_ARTIFACTS_DESTINATION names where it keeps the artifacts that clients send.
    """
    from mlflow.server import constants

    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: os.environ["MLFLOW_BACKEND_STORE_URI"],
        constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: os.environ.get("MLFLOW_ARTIFACTS_DESTINATION", "./mlartifacts"),
    }
    from mlflow.server import app as flask
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(os.environ["MLFLOW_BACKEND_STORE_URI"])  # two first requests at once would both make it
    page = Path(str(flask.static_folder), "index.html")
    opened = opens_on_trainings(app, page) if page.is_file() else app
    return Guard(opened, os.environ[HOST], os.environ.get(PASSWORD))
