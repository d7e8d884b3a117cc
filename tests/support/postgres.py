"""A real PostgreSQL in a temporary folder, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import sqlalchemy

USER, PASSWORD = "trackway", "s3cr3t-w0rd"


def programs() -> Path | None:
    """The folder of initdb and pg_ctl; Debian keeps them off PATH."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    return Path(found).resolve().parent if found else folders[-1] if folders else None


@dataclass
class Postgres:
    """A running cluster; it can be stopped and started again on the same port."""

    programs: Path
    folder: Path
    port: int
    numbers: Iterator[int] = field(default_factory=count)

    def _run(self, program: str, *arguments: str) -> None:
        user = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []  # initdb refuses root
        # Into a file: the server inherits the streams, and a pipe would not end before it does.
        with (self.folder / "commands.log").open("a+") as log:
            command = [*user, str(self.programs / program), "-D", str(self.folder / "data"), *arguments]
            done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            assert done.returncode == 0, Path(log.name).read_text()

    def start(self) -> None:
        # No Unix socket; and as nothing here outlives the tests, nothing is flushed to the disk.
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "start", "--wait", "-l", str(self.folder / "server.log"), "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--wait", "-m", "immediate")

    def new_database(self) -> str:
        """The address of an empty one, with user and password."""
        server = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}"
        name = f"mlflow{next(self.numbers)}"
        engine = sqlalchemy.create_engine(
            f"{server}/postgres", isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool
        )
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        return f"{server}/{name}"


@contextmanager
def cluster(programs: Path, port: int) -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="trackway-postgres-"))  # pytest's own folders are closed to other users
    password = folder / "password"
    password.write_text(PASSWORD)
    if os.geteuid() == 0:
        for path in (folder, password):
            shutil.chown(path, "nobody")
    postgres = Postgres(programs, folder, port)
    try:
        postgres._run(
            "initdb", "--no-sync", "--username", USER, "--pwfile", str(password), "--auth", "scram-sha-256",
            "--encoding", "UTF8", "--locale", "C",
        )  # fmt: skip
        postgres.start()
        yield postgres
        postgres.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
