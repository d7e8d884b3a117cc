"""What `trackway export` can make of a registered model; to add a kind, write a function and an entry in EXPORTS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from learn.errors import ExportError, did_you_mean
from tasks.export.folders import FOLDERS, export_folder
from tasks.export.formats import FORMATS
from tasks.export.one_file import Exported, export_file
from tasks.params import Params

EXPORTS: dict[str, Callable[..., Exported]] = {
    **dict.fromkeys(FORMATS, export_file),
    **dict.fromkeys(FOLDERS, export_folder),
}  # what --format names


def export(params: Params, model: str, kind: str, out: Path, *, int8: bool) -> Exported:
    """Exports a registered model.

    Args:
        params: The parameters.
        model: NAME@ALIAS or NAME/VERSION.
        kind: A name in EXPORTS.
        out: What to write.
        int8: Whether weights have eight bits.

    Raises:
        ExportError: There is no such kind, the model cannot be written so, or does not predict the same.
        TrackingError: There is no store, or no such model, or it cannot be loaded.
    """
    if kind not in EXPORTS:
        raise ExportError(f"--format is {kind}; it must be {', '.join(EXPORTS)}{did_you_mean(kind, EXPORTS)}")
    return EXPORTS[kind](params, model, kind, out, int8=int8)
