"""Clients of an HTTP server on this machine; each keeps its connection, and costs little itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection

CLIENTS = 16


@dataclass(frozen=True)
class Request:
    path: str
    content_type: str
    body: bytes


@contextmanager
def connected(port: int) -> Iterator[HTTPConnection]:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        yield connection
    finally:
        connection.close()


def listens(port: int) -> bool:
    with suppress(OSError), connected(port) as client:
        client.connect()
        return True
    return False


def ask(client: HTTPConnection, request: Request) -> None:
    """POST; ends this process if the answer is not 200."""
    client.request("POST", request.path, request.body, {"Content-Type": request.content_type})
    answer = client.getresponse()
    text = answer.read()
    if answer.status != 200:
        sys.exit(f"{request.path} answered {answer.status}: {text.decode()[:500]}")


def load(port: int, requests: Sequence[Request], is_more: Callable[[], bool]) -> int:
    """CLIENTS ask, each for one request after another, as long as there are more; the number of answers."""

    def client(first: int) -> int:
        answers = 0
        with connected(port) as connection:
            while is_more():
                ask(connection, requests[(first + answers) % len(requests)])
                answers += 1
        return answers

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(client, range(CLIENTS)))


def times(number: int) -> Callable[[], bool]:
    """What is true so many times, for all threads together."""
    left = iter(range(number))
    return lambda: next(left, None) is not None
