"""(o) `trackway serve`: its start, what it adds to a model's forward pass, requests a second, and memory.

Beside it `mlflow models serve` and a plain FastAPI app (plain_app.py); all compute with one thread. Run it alone: the
files that another benchmark of the same process uses cannot be taken out of memory for a start.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from bench.clients import CLIENTS, Request, ask, connected, listens, load, times
from bench.common import environment, in_turns, median, median_ratio, mirror, project, run, show
from tasks.workspace.environment import WARM
from tests.support.project import TRACKWAY, free_port

STARTS, ALONE, TURNS, SECONDS = 3, 300, 3, 5.0
FEW, MANY = 100, 10_000
UNBATCHED = "import web.batcher; web.batcher.MOST = 1; import flows.cli; flows.cli.main()"
SERVERS = {
    "plain FastAPI": ("uvicorn", "bench.plain_app:app", "--log-level", "warning"),
    "mlflow models serve": ("mlflow", "models", "serve", "--env-manager", "local", "--model-uri", "models:/MODEL"),
    "unbatched": ("-c", UNBATCHED, "serve", "MODEL"),
    "trackway serve": ("flows.cli", "serve", "MODEL"),
}
OURS = ("unbatched", "trackway serve")  # they compute with the threads that params.yaml says, which is one


@dataclass(frozen=True)
class Subject:
    """A registered model, and an input for it: as the model takes it, as JSON, and as a photo."""

    folder: Path
    dataset: str

    @property
    def name(self) -> str:
        return f"{self.dataset}@champion"

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder}/mlruns/mlflow.db"

    @property
    def inputs(self) -> np.ndarray:
        """(1, C, H, W)."""
        (file,) = (self.folder / "data/transformed" / self.dataset).glob("*/test-inputs.npy")
        return np.load(file)[:1]

    @property
    def numbers(self) -> Request:
        return Request("/invocations", "application/json", json.dumps({"inputs": self.inputs.tolist()}).encode())

    @property
    def photo(self) -> Request:
        """One of the dataset's files, if it has files; else a PNG of the input."""
        file = min((self.folder / "data/raw" / self.dataset).rglob("*.jpg"), default=None)
        content = io.BytesIO(file.read_bytes() if file else b"")
        if not file:
            pixels = np.rint(self.inputs[0, 0] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(content, "png")
        head = b'--border\r\nContent-Disposition: form-data; name="photo"; filename="photo"\r\n\r\n'
        body = head + content.getvalue() + b"\r\n--border--\r\n"
        return Request("/predict", "multipart/form-data; boundary=border", body)


def main() -> None:
    with project() as folder:
        datasets = ["digits"]
        if mirror():
            run(folder, *TRACKWAY, "add", "food")
            for name in ("food-tinyvgg", "food-tinyvgg-augmented", "food-cnn-augmented"):  # food-cnn is left
                run(folder, *TRACKWAY, "remove", name)
            datasets.append("food")
        run(folder, "dvc", "repro", "--quiet", *(f"register@{dataset}" for dataset in datasets))
        subjects = [Subject(folder, dataset) for dataset in datasets]
        show_starts(subjects[-1])
        for subject in subjects:
            show_memory(subject)
            with ExitStack() as stack:
                ports = {title: stack.enter_context(serving(subject, title))[0] for title in SERVERS}
                show_latency(subject, ports["trackway serve"])
                show_rates(subject, ports)


def show_starts(subject: Subject) -> None:
    def start(title: str, files_in_memory: bool, **variables: str) -> float:
        if not files_in_memory:
            forget_files(Path(sys.prefix), Path(sysconfig.get_path("stdlib")), subject.folder)
        request, began = subject.numbers, time.perf_counter()
        with serving(subject, title, **variables) as (port, _), connected(port) as client:
            ask(client, request)
            return time.perf_counter() - began

    titles, off = ("plain FastAPI", "mlflow models serve", "trackway serve"), {WARM: "off"}
    starts = {
        f"{title}, {what} in memory": partial(start, title, known, **off)
        for title in titles
        for known, what in ((False, "no file"), (True, "its files"))
    }
    found = dict(zip(starts, in_turns(STARTS, *starts.values()), strict=True))
    run(subject.folder, *TRACKWAY, "up", f"--prefect-port={free_port()}", f"--mlflow-port={free_port()}")
    try:
        found["trackway serve, with trackway up"] = in_turns(STARTS, partial(start, "trackway serve", True))[0]
    finally:
        run(subject.folder, *TRACKWAY, "down")
    show(
        f"(o) {subject.name} on {os.cpu_count()} cores: from the command to the first answer, medians of {STARTS}",
        ["what", "seconds"],
        [[what, f"{median(seconds):.1f}"] for what, seconds in found.items()],
    )


def forget_files(*folders: Path) -> None:
    """Has the system take files out of memory, but for those that a process has mapped (Linux)."""
    os.sync()  # what is not written yet cannot be forgotten
    for file in (file for folder in folders for file in folder.rglob("*") if file.is_file()):
        opened = os.open(file, os.O_RDONLY)
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(opened)


def show_memory(subject: Subject) -> None:
    both = (subject.photo, subject.numbers)
    with serving(subject, "trackway serve") as (port, process):
        load(port, both, times(FEW))
        few = memory(process)
        load(port, both, times(MANY - FEW))
        many = memory(process)
    show(
        f"(o) {subject.name}: memory that only it has (USS), {CLIENTS} clients that send photos and numbers",
        [f"after {FEW} requests", f"after {MANY:,}", "more"],
        [[f"{few:.0f} MB", f"{many:.0f} MB", f"{many - few:+.0f} MB"]],
    )


def memory(process: psutil.Process) -> float:
    """MB, with those of the processes that it has started."""
    return sum(each.memory_full_info().uss for each in (process, *process.children(recursive=True))) / 2**20


def show_latency(subject: Subject, port: int) -> None:
    import torch

    from tasks.tracking.loading import load_model
    from tasks.tracking.names import Store

    torch.set_num_threads(1)
    graph, inputs = load_model(Store(subject.store), subject.name).graph, subject.inputs
    rows = []
    for request in (subject.photo, subject.numbers):
        with connected(port) as client, torch.inference_mode():
            answers, passes = in_turns(
                ALONE, partial(timed, ask, client, request), partial(timed, graph, torch.from_numpy(inputs))
            )
        more = median([answer - forward for answer, forward in zip(answers, passes, strict=True)])
        milliseconds = [f"{1000 * value:.2f} ms" for value in (median(answers), median(passes), more)]
        rows.append([request.path, *milliseconds, "5 ms"])
    show(
        f"(o) {subject.name}: one request after another, medians of {ALONE} in turns with the model's forward pass",
        ["request", "answer", "forward pass", "more", "allowed"],
        rows,
    )


def timed(function: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def show_rates(subject: Subject, ports: dict[str, int]) -> None:
    def rate(port: int) -> float:
        end = time.perf_counter() + SECONDS
        return load(port, [subject.numbers], lambda: time.perf_counter() < end) / SECONDS

    rates = dict(zip(ports, in_turns(TURNS, *(partial(rate, port) for port in ports.values())), strict=True))
    ours = rates["trackway serve"]
    show(
        f"(o) {subject.name}: /invocations by {CLIENTS} clients, medians of {TURNS} × {SECONDS:.0f} s in turns",
        ["server", "requests a second", "trackway serve ÷ it"],
        [[title, f"{median(each):.0f}", f"{median_ratio(ours, each):.2f}×"] for title, each in rates.items()],
    )


@contextmanager
def serving(subject: Subject, title: str, **variables: str) -> Iterator[tuple[int, psutil.Process]]:
    """Starts a server; its port, once something listens there, and its process."""
    port, words = free_port(), [word.replace("MODEL", subject.name) for word in SERVERS[title]]
    command = ["python", *([] if words[0] == "-c" else ["-m"]), *words, "--port", str(port)]
    if title not in OURS:
        variables |= {"MODEL": f"models:/{subject.name}", "MLFLOW_TRACKING_URI": subject.store, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as output:
        process = psutil.Popen(
            command,
            cwd=subject.folder,
            env=environment(subject.folder, **variables),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while not listens(port):
                if process.poll() is not None:
                    output.seek(0)
                    sys.exit(f"{' '.join(command)} has ended:\n{output.read()}")
                time.sleep(0.01)
            yield port, process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


if __name__ == "__main__":
    main()
