"""Starts the server of `trackway serve`, and ends it with Ctrl-C."""

from __future__ import annotations

import ctypes
import gc
import platform
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from learn.errors import ServerError

if TYPE_CHECKING:
    from tasks.tracking.names import Store

LOOPBACK = ["127.0.0.1", "localhost", "[::1]"]


def serve(store: Store, name: str, host: str, port: int, *, threads: int, local: bool) -> None:
    """Serves a registered model until Ctrl-C or SIGTERM.

    Args:
        store: The store.
        name: NAME@ALIAS or NAME/VERSION.
        host: Where to listen.
        port: The port.
        threads: Number of threads with which PyTorch computes.
        local: Whether only this machine can reach the host; then only its own names are answered.

    Raises:
        TrackingError: There is no such model, it cannot be loaded, or it does not take raw inputs.
        ServerError: Nothing can listen there.
    """
    listening = _listen(host, port)  # first, for loading takes seconds
    import torch
    import uvicorn

    from web.app import create_app
    from web.batcher import Batcher
    from web.connections import Protocol
    from web.current import Current
    from web.metrics import Metrics

    torch.set_num_threads(threads)
    _share_heaps()
    metrics = Metrics()
    current = Current(store, name, partial(Batcher, tell=metrics.computed))
    app = create_app(current, metrics, LOOPBACK if local else ["*"])
    config = uvicorn.Config(app, http=Protocol, ws="none", log_level="warning", timeout_graceful_shutdown=5)
    shown = f"[{host}]" if ":" in host else host
    print(f"{name} (version {current.model.version}) at http://{shown}:{port}; Ctrl-C ends it", flush=True)
    gc.set_threshold(700, 10, 10)  # Python's own; the command's, for the imports, would leave a server its garbage
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has ended all requests
        uvicorn.Server(config).run([listening])


def _share_heaps() -> None:
    """Has all threads take memory from two heaps of glibc's malloc.

    Otherwise each thread that reads photos has a heap of its own, in which freed memory stays: 90 MB more after 10,000
    requests than after 100.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        why = str(error.strerror).partition(" (while ")[0]
        raise ServerError(f"nothing can listen at {host}, port {port}: {why}; choose another --port") from error
    # Connections inherit it. asyncio sets it only where a socket's protocol number is given; without it the body of an
    # answer, which follows its head in a packet of its own, waits 40 ms for the client to acknowledge the head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
