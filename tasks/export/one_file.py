"""Writes a registered model as one file that predicts what the model predicts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from learn.errors import ExportError, TrackwayError
from tasks.export.check import Samples, difference, outputs_of, refuse_broken, refuse_unequal, samples_for
from tasks.export.formats import FORMATS, INT8, Format
from tasks.export.measure import Contender, Measured, measured, metric_for
from tasks.params import Params
from tasks.tracking.graphs import RegisteredGraph, load_graph
from tasks.tracking.loading import store_of
from tasks.workspace.files import scratch


@dataclass(frozen=True)
class Exported:
    """What was exported, and how it compares with the registered graph."""

    rows: tuple[Measured, ...]  # of a file; none of a folder
    metric: str
    remarks: tuple[str, ...]


def export_file(params: Params, model: str, kind: str, out: Path, *, int8: bool) -> Exported:
    """Writes a registered model as a file, and replaces what is there once the new file has passed the check.

    Args:
        params: The parameters.
        model: NAME@ALIAS or NAME/VERSION.
        kind: A name in FORMATS.
        out: The file.
        int8: Whether weights have eight bits.

    Raises:
        ExportError: The model cannot be written so, or the file does not predict what the model predicts.
        TrackingError: There is no store, or no such model, or it cannot be loaded.
    """
    chosen = _chosen(kind, out, int8=int8)
    store = store_of(params)
    import torch

    torch.set_num_threads(params.threads)
    graph = load_graph(store, model)
    return write_checked(graph, chosen, out, samples_for(graph))


def write_checked(graph: RegisteredGraph, chosen: Format, out: Path, samples: Samples) -> Exported:
    """Writes a graph as a file, whole or not at all, that predicts what the graph predicts.

    Args:
        graph: The graph.
        chosen: The format.
        out: The file, which may be there already.
        samples: What both predict.

    Raises:
        ExportError: The graph cannot be written so, or the file does not predict what the graph predicts.
    """
    try:
        with scratch(out.parent, out.name) as folder:
            file = folder / out.name
            exported = _checked(graph, chosen, file, samples)
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            file.replace(out)
    except ExportError as error:
        raise ExportError(f"{out} is not written, for {graph.title} cannot be had so: {error}") from error
    except OSError as error:
        raise ExportError(f"--out is {out}, which cannot be written: {error.filename}: {error.strerror}") from error
    return exported


def _chosen(kind: str, out: Path, *, int8: bool) -> Format:
    """Returns the format; raises ExportError if it does not go with the other arguments."""
    if int8 and kind not in INT8:
        raise ExportError(f"--int8 does not go with --format {kind}; it goes with {', '.join(INT8)}")
    chosen = (INT8 if int8 else FORMATS)[kind]
    if out.suffix.lower() != chosen.suffix:
        raise ExportError(f"--out is {out}; with --format {kind} its name must end in {chosen.suffix}")
    if out.is_dir():
        raise ExportError(f"--out is {out}, a folder; give the name of a file in it")
    chosen.prepare()
    return chosen


def _checked(graph: RegisteredGraph, chosen: Format, file: Path, samples: Samples) -> Exported:
    """Writes a file and returns what was measured of it.

    Raises:
        ExportError: It cannot be written, or does not predict what the graph predicts.
    """
    registered = graph.program.module()
    expected = outputs_of(registered, samples.inputs)
    try:
        chosen.write(graph, file)
        run = chosen.load(graph, file)
        found = outputs_of(run, samples.inputs)
    except (OSError, TrackwayError):
        raise
    except Exception as error:  # the libraries raise many kinds for a model that they do not take
        raise ExportError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    refuse_broken(found, expected)
    if chosen.is_exact:
        refuse_unequal(found, expected)
    both = (
        Contender("registered", graph.size, registered, expected),
        Contender(file.name, file.stat().st_size, run, found),
    )
    compared = f"compared with {graph.title} on {samples.what}: {difference(found, expected)}"
    classes = graph.about.classes
    return Exported(
        tuple(measured(one, samples, classes) for one in both),
        metric_for(classes),
        tuple(filter(None, [compared, samples.why, chosen.remark])),
    )
