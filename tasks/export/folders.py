"""The formats of `trackway export` that are folders: a Hugging Face Space, and what Docker builds an image from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from learn.errors import ExportError
from tasks.export.docker import write_docker
from tasks.export.formats import INT8
from tasks.export.one_file import Exported
from tasks.export.space import write_space
from tasks.params import Params
from tasks.tracking.loading import store_of
from tasks.tracking.names import Store
from tasks.workspace.files import atomic_folder


@dataclass(frozen=True)
class FolderFormat:
    """How a registered model is written as a folder."""

    write: Callable[[Store, str, Path], str]  # from the store and the model's name; returns what was compared
    names: frozenset[str]  # what lies in such a folder
    remark: str  # what to do with it


FOLDERS = {
    "space": FolderFormat(
        write_space,
        frozenset({"README.md", "app.py", "examples", "learn", "model.pt2", "requirements.txt"}),
        "start it there: pip install -r requirements.txt, then python app.py",
    ),
    "docker": FolderFormat(
        write_docker, frozenset({"Dockerfile", "model"}), "build the image there: docker build --tag NAME ."
    ),
}
LEFT_BY_USE = {".gradio", "__pycache__"}  # what may lie there besides, once a Space was started


def export_folder(params: Params, model: str, kind: str, out: Path, *, int8: bool) -> Exported:
    """Writes a registered model as a folder, checks it, and replaces the same folder of an earlier export.

    Args:
        params: The parameters.
        model: NAME@ALIAS or NAME/VERSION.
        kind: A name in FOLDERS.
        out: The folder.
        int8: Not for folders.

    Raises:
        ExportError: The model cannot be written so, the folder does not predict what the model predicts, or something
            else is there.
        TrackingError: There is no store, or no such model, or it cannot be loaded.
    """
    chosen = FOLDERS[kind]
    if int8:
        raise ExportError(f"--int8 does not go with --format {kind}; it goes with {', '.join(INT8)}")
    _refuse_place(out, kind)
    store = store_of(params)
    try:
        with atomic_folder(out) as folder:
            compared = chosen.write(store, model, folder)
    except ExportError as error:
        raise ExportError(f"{out} is not written, for {model} cannot be had as {kind}: {error}") from error
    except OSError as error:
        raise ExportError(f"--out is {out}, which cannot be written: {error.strerror or error}") from error
    return Exported((), "", (compared, chosen.remark))


def _refuse_place(out: Path, kind: str) -> None:
    """Raises ExportError if there is something that an export of this kind did not write."""
    if out.exists() and not out.is_dir():
        raise ExportError(f"--out is {out}, a file; with --format {kind} it must be a folder")
    found = {each.name for each in out.iterdir()} - LEFT_BY_USE if out.is_dir() else set()
    if found and found != FOLDERS[kind].names:
        raise ExportError(
            f"--out is {out}, a folder that --format {kind} did not write: it has {', '.join(sorted(found)[:3])}; "
            "next: name a new folder, or remove this one"
        )
