from __future__ import annotations

import hashlib
import socket
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from learn.data.datasets.pizza_steak_sushi import PizzaSteakSushi
from learn.data.source import Downloaded
from learn.errors import DownloadError, NetworkError
from tasks import download
from tasks.download import fetch, fetch_photos
from tests.support.project import Project

# requests keeps its connections until they are collected
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONTENT = b"a file of some data set" * 1000
CHECKSUM = "md5:" + hashlib.md5(CONTENT).hexdigest()


@dataclass(frozen=True)
class Small(Downloaded):
    folder = "Small"
    hosts = ()
    checksums: ClassVar = {"data.bin": CHECKSUM}
    sizes = (1, 0)
    shape = (1,)

    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError("these tests read nothing")


SOURCE = Small("small")


class Server(ThreadingHTTPServer):
    """A web server that answers each request with the next of its answers, and the last one for ever."""

    daemon_threads = True

    def __init__(self, answers: list[tuple[int, bytes]], handler: type[BaseHTTPRequestHandler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.answers = answers
        self.stopped = threading.Event()
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, body = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(CONTENT) if status == 200 else len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


Serve = Callable[..., Server]  # given the answers, (status, body) each, starts a server


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(*answers: tuple[int, bytes]) -> Server:
        server = Server(list(answers))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def get(folder: Path, mirror: str | None) -> None:
    fetch("small", SOURCE, "data.bin", CHECKSUM, folder, mirror)


def test_a_folder_serves_as_mirror(tmp_path: Path) -> None:
    (tmp_path / "mirror/Small").mkdir(parents=True)
    (tmp_path / "mirror/Small/data.bin").write_bytes(CONTENT)
    get(tmp_path / "raw", str(tmp_path / "mirror"))
    assert (tmp_path / "raw/data.bin").read_bytes() == CONTENT


def test_a_web_server_serves_as_mirror(tmp_path: Path, serve: Serve) -> None:
    server = serve((200, CONTENT))
    get(tmp_path, server.url + "/sets/")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.asked == ["/sets/Small/data.bin"]


def test_a_server_that_is_busy_is_asked_again(tmp_path: Path, serve: Serve) -> None:
    server = serve((503, b"busy"), (200, CONTENT))
    get(tmp_path, server.url)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_connection_that_breaks_off_is_tried_again(tmp_path: Path, serve: Serve) -> None:
    server = serve((200, CONTENT[:1000]), (200, CONTENT))
    get(tmp_path, server.url)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_not_asked_for_again(tmp_path: Path, serve: Serve) -> None:
    server = serve((404, b"none"))
    with pytest.raises(DownloadError, match="404") as caught:
        get(tmp_path, server.url)
    assert not isinstance(caught.value, NetworkError)
    assert len(server.asked) == 1


def test_a_wrong_checksum_is_neither_kept_nor_used(tmp_path: Path, serve: Serve) -> None:
    server = serve((200, CONTENT[::-1]))
    with pytest.raises(DownloadError) as caught:
        get(tmp_path, server.url)
    assert not isinstance(caught.value, NetworkError)
    assert list(tmp_path.iterdir()) == []
    assert len(server.asked) == 1
    message = str(caught.value)
    assert f"{server.url}/Small/data.bin: ValueError: MD5 hash of downloaded file" in message
    assert "put data.bin into FOLDER/Small/, set DATA_MIRROR=FOLDER" in message


class Hostile(BaseHTTPRequestHandler):
    """Answers as the path's first part says."""

    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        getattr(self, self.path.split("/")[1])()

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _drip(self, *parts: bytes) -> None:
        """The parts, one every 0.1 seconds and the last for ever, until the other side is gone."""
        with suppress(OSError):
            for part in chain(parts, repeat(parts[-1])):
                self.wfile.write(part)
                self.server.stopped.wait(0.1)
                if self.server.stopped.is_set():
                    return

    def stalls(self) -> None:
        self._answer(200, Content_Length=str(len(CONTENT)))
        self.wfile.write(CONTENT[:1000])
        self.server.stopped.wait()

    def trickles(self) -> None:
        self._answer(200, Content_Length=str(len(CONTENT)))
        self._drip(b"x")

    def trickles_headers(self) -> None:
        self._drip(b"HTTP/1.1 200 OK\r\nX-Some: ", b"x")

    def never_ends(self) -> None:
        self._answer(200)
        with suppress(OSError):
            while not self.server.stopped.is_set():
                self.wfile.write(bytes(2**16))

    def page(self) -> None:
        self._answer(200, Content_Type="text/html")
        self.wfile.write(b"\n<!DOCTYPE html><html><title>Please log in</title></html>")

    def leads_to_a_file(self) -> None:
        self._answer(302, Location="file:///etc/passwd")

    def leads_in_circles(self) -> None:
        self._answer(302, Location=self.path)

    def resets(self) -> None:
        self._answer(200, Content_Length=str(len(CONTENT)))
        self.wfile.write(CONTENT[:1000])
        # closes with a reset instead of an end
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("behaviour", "message", "passing"),
    [
        ("stalls", "Read timed out", True),
        ("trickles", r"SlowError: only \d+ bytes in \d+ seconds; given up", True),
        ("trickles_headers", "SlowError: only 0 bytes in", True),
        ("never_ends", "the server sends more than 1,048,576 bytes, so it is another file; given up", False),
        ("page", "the server sent an HTML page, not the file", False),
        ("leads_to_a_file", "InvalidSchema: No connection adapters were found for 'file:///etc/passwd'", False),
        ("leads_in_circles", "TooManyRedirects", False),
        ("resets", "Connection reset by peer", True),
    ],
)
def test_a_hostile_server_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, message: str, passing: bool
) -> None:
    for name, value in (("ATTEMPTS", 2), ("SILENCE", 0.5), ("START", 1.0)):
        monkeypatch.setattr(download, name, value)
    monkeypatch.setattr(Small, "largest", 2**20)
    server = Server([], Hostile)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(DownloadError, match=message) as caught:
            get(tmp_path / "raw/small", f"{server.url}/{behaviour}")
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
    assert isinstance(caught.value, NetworkError) == passing
    if passing:
        assert len(server.asked) == 2, "tried again, and not for ever"
    assert "set DATA_MIRROR=FOLDER" in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "nothing half-written stays"


def test_a_damaged_file_from_before_is_replaced(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "data.bin").write_bytes(b"damaged")
    get(tmp_path, serve((200, CONTENT)).url)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_good_file_from_before_is_kept_without_asking(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "data.bin").write_bytes(CONTENT)
    server = serve((404, b""))
    get(tmp_path, server.url)
    assert server.asked == []


def test_the_stage_names_every_source_that_failed_and_leaves_nothing(project: Project) -> None:
    """The real Fashion-MNIST with an empty mirror and no way out: its hosts are behind a proxy that refuses."""
    project.run("python", "-m", "flows.cli", "add", "fashion_mnist")
    (project.folder / "empty").mkdir()
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "DATA_MIRROR": "empty"}
    done = project.stage("download@fashion_mnist", check=False, **nowhere)
    assert done.returncode == NetworkError.exit_code
    assert "error: fashion_mnist: no source gave train-images-idx3-ubyte.gz with the published checksum" in done.stdout
    assert "empty/FashionMNIST/train-images-idx3-ubyte.gz: FileNotFoundError" in done.stdout
    assert "fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz: ProxyError" in done.stdout
    assert "github.com/zalandoresearch/fashion-mnist" in done.stdout
    assert "set DATA_MIRROR=FOLDER (or mirror: in params.yaml), and run this again" in done.stdout
    assert list((project.folder / "data/raw/fashion_mnist").iterdir()) == []


def test_the_stage_removes_what_a_killed_download_left(project: Project, mirror: Path) -> None:
    project.run("python", "-m", "flows.cli", "add", "fashion_mnist")
    folder = project.folder / "data/raw/fashion_mnist"
    folder.mkdir(parents=True)
    (folder / "tmp0123").write_bytes(b"half a file")
    project.stage("download@fashion_mnist", DATA_MIRROR=str(mirror))
    assert len(list(folder.iterdir())) == 4
    assert not (folder / "tmp0123").exists()


def test_an_archive_with_other_photos_is_refused_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PizzaSteakSushi, "hosts", ())
    with zipfile.ZipFile(tmp_path / "pizza_steak_sushi.zip", "w") as packed:
        for name in ("train/pizza/1.jpg", "train/steak/2.jpg", "test/pizza/3.jpg"):
            packed.writestr(name, b"another photo")
    folder = tmp_path / "raw/food"
    folder.mkdir(parents=True)
    with pytest.raises(DownloadError) as caught:
        fetch_photos("food", PizzaSteakSushi("pizza_steak_sushi"), folder, str(tmp_path))
    assert "the archive is not the published one" in str(caught.value)
    assert "put pizza_steak_sushi.zip into FOLDER/, set DATA_MIRROR=FOLDER" in str(caught.value)
    assert list(folder.iterdir()) == []
    assert list(folder.parent.iterdir()) == [folder]
