"""The application of `trackway serve`: the page, MLflow's REST API, and an endpoint for photos.

The handlers that read a photo or compute run in threads, and the batcher computes together what they ask for.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from learn.data.photos.decode import PhotoError, photo_pixels
from tasks.photos import AT_ONCE, Room
from tasks.predict import photo_as_input, takes_photos
from tasks.tracking.serving import ServedModel, mlflow_version
from web.connections import BodyLimits
from web.current import Current
from web.metrics import Measured, Metrics
from web.page import as_png, described, page

NO_FORM = "there is no file in a form; send one photo as multipart/form-data: curl -F photo=@FILE"
VERSION = "X-Model-Version"  # the header that says which version answered
PHOTO = {  # what OpenAPI says of the body of /predict
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["photo"],
                    "properties": {"photo": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}
INPUTS = {  # what it says of the body of /invocations
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}, "example": {"inputs": [[0.5, 1.5]]}}},
    }
}


def create_app(current: Current, metrics: Metrics, hosts: list[str]) -> FastAPI:
    """Returns the application.

    Args:
        current: The served version.
        metrics: The counters.
        hosts: Names by which clients may call the server, against DNS rebinding; `*` for any.
    """

    @asynccontextmanager
    async def watching(_: FastAPI) -> AsyncIterator[None]:
        current.start()
        yield
        current.stop()

    app = FastAPI(
        title=f"trackway serve {current.name}",
        docs_url=None,  # its pages load scripts from a CDN
        redoc_url=None,
        lifespan=watching,
        middleware=[
            Middleware(Measured, metrics=metrics),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
            Middleware(BodyLimits),
        ],
    )
    _add_page(app, current)
    _add_predictions(app, current)
    _add_state(app, current, metrics)
    return app


def _add_page(app: FastAPI, current: Current) -> None:
    content, policy = page()

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
        return Response(content, media_type="text/html", headers=headers)

    @app.get("/model")
    def model() -> dict[str, Any]:
        """Describes the served version: its name, classes, inputs, and its model card as HTML."""
        return described(current.name, current.model)

    @app.get("/examples/{index}.png")
    def example(index: int) -> Response:
        """Returns a sample of the test part as a picture."""
        served = current.model
        if not takes_photos(served.about) or not 0 <= index < len(served.examples):
            raise HTTPException(404, f"{current.name} has no picture {index}")
        return Response(as_png(served, index), media_type="image/png", headers={VERSION: served.version})


def _add_predictions(app: FastAPI, current: Current) -> None:
    room = Room(AT_ONCE)

    @app.post("/predict", openapi_extra=PHOTO)
    async def predict(request: Request, response: Response) -> dict[str, Any]:
        """Predicts a photo (multipart/form-data, one file): JPEG, PNG, WebP, BMP or GIF."""
        served = current.model
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise HTTPException(400, NO_FORM)
        async with request.form(max_files=1, max_fields=1) as form:
            photo = next((value for value in form.values() if isinstance(value, UploadFile)), None)
            if photo is None:
                raise HTTPException(400, NO_FORM)
            found = await run_in_threadpool(_predicted, served, photo, room)
        response.headers[VERSION] = served.version
        return {"model": served.name, "version": served.version, **found}

    @app.post("/invocations", openapi_extra=INPUTS)
    async def invocations(request: Request) -> Response:
        """Predicts as `mlflow models serve` does: JSON (inputs, instances, dataframe_split, dataframe_records), CSV."""
        served, body = current.model, await request.body()
        kind = request.headers.get("content-type", "")
        text, status, media_type = await run_in_threadpool(served.invoke, body, kind)
        return Response(text, status, {VERSION: served.version}, media_type)


def _predicted(served: ServedModel, photo: UploadFile, room: Room) -> dict[str, Any]:
    """Returns what the model says of a photo, the likeliest class first, and how long it took."""
    if not takes_photos(served.about):
        taken = "a table's columns" if served.about.columns else "numbers"
        raise HTTPException(400, f"{served.name} takes {taken}, not photos; send such inputs to /invocations")
    start = time.perf_counter()
    with tempfile.NamedTemporaryFile(prefix="trackway-") as file:  # the transform stage's functions read files
        while chunk := photo.file.read(2**20):
            file.write(chunk)
        file.flush()
        path = Path(file.name)
        try:
            with room.taken(photo_pixels(path)):
                inputs = photo_as_input(path, served.about)
        except PhotoError as error:
            raise HTTPException(400, f"the file cannot be read as a photo: {error}") from error
    (row,) = served.predict(np.expand_dims(inputs, 0))
    milliseconds = round(1000 * (time.perf_counter() - start), 2)
    if "value" in row:
        return {"value": row["value"], "milliseconds": milliseconds}
    ranked = sorted(row["probabilities"].items(), key=lambda pair: (pair[0] != row["class"], -pair[1]))
    return {"classes": [{"class": k, "probability": v} for k, v in ranked], "milliseconds": milliseconds}


def _add_state(app: FastAPI, current: Current, metrics: Metrics) -> None:
    @app.get("/ping")
    def ping() -> Response:
        """Answers as `mlflow models serve` does."""
        return Response("\n", media_type="application/json")

    @app.get("/version")
    def version() -> Response:
        """Returns the version of MLflow, as `mlflow models serve` does."""
        return Response(mlflow_version(), media_type="application/json")

    @app.get("/health")
    def health() -> Response:
        """Says which version is served."""
        served = current.model
        state = {"status": "ok", "model": served.name, "version": served.version, "asked_for": current.name}
        return Response(json.dumps(state), media_type="application/json", headers={VERSION: served.version})

    @app.get("/metrics")
    def counters() -> Response:
        """Returns the counters in Prometheus's text format."""
        served = current.model
        return Response(metrics.text(served.name, served.version), media_type="text/plain; version=0.0.4")
