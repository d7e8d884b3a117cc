"""Prints where runs, registered versions and data come from, and what came from them, in aligned lines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, repeat

from flows.reports.data_versions import DataVersion, version_with
from learn.errors import printable
from tasks.tracking.provenance import Origin, Provenance, Version
from tasks.tracking.tags import DIFF

WIDTH, LABEL = 120, 13  # characters of a line, and of the labels at its beginning
SHOWN = 20  # largest number of runs that are listed


def line(label: str, text: str) -> str:
    """Returns a line of the answer; it is not wrapped, for it may have commands to copy."""
    return f"  {label:<{LABEL}}{printable(text)}"


def of_runs(known: Provenance, runs: list[Origin]) -> str:
    """Returns the answer for runs with the same state_dict, or of the same experiment; the first one is shown."""
    run, others = runs[0], runs[1:]
    lines = [_title(run), *_backward(known, run), *_forward(known, [run])]
    return "\n".join([*lines, *(["other runs of the same:", *_listed(known, others)] if others else [])])


def of_version(known: Provenance, version: Version) -> str:
    """Returns the answer for a registered version."""
    lines = [version.title, *([line("decision", version.decision)] if version.decision else [])]
    run = known.run(version.run_id) if version.run_id else None
    if run is None:
        return "\n".join([*lines, line("run", "not known: the version was registered by hand, or the run is gone")])
    return "\n".join([*lines, line("run", _title(run)), *_backward(known, run), *_forward(known, [run])])


def of_data(known: Provenance | None, data: DataVersion) -> str:
    """Returns the answer for a file or folder that a stage made; `known` is None without a store."""
    lines = [f"{data.path}, md5 {data.md5}", line("made by", data.stage), line("get it", data.how_to_get())]
    lines += [line("from", f"{path}, md5 {md5}") for path, md5 in data.reads.items()]
    if known is None:
        return "\n".join([*lines, line("runs", "not known: tracking is null in params.yaml")])
    if data.experiment:
        digest = data.state_dict()
        runs = [run for run in known.of_stage(f"train@{data.experiment}") if digest in (None, run.state_dict)]
        return "\n".join([*lines, *_with_runs(known, runs, f"runs of {data.experiment}:")])
    return "\n".join([*lines, *_with_runs(known, known.of_data(set(data.descendants().values())), "runs with it:")])


def of_lost_data(known: Provenance, md5: str, runs: list[Origin]) -> str:
    """Returns the answer for data that no dvc.lock has, but runs name: what they were trained or measured on."""
    trained = [run for run in runs if run.data_md5.removesuffix(".dir") == md5]
    if not trained:
        return "\n".join([f"held-out samples, md5 {md5}", *_with_runs(known, runs, "runs that were measured on them:")])
    lines = [f"{trained[0].data}, md5 {trained[0].data_md5}", line("get it", _how_to_get(trained[0]))]
    return "\n".join([*lines, *_with_runs(known, trained, "runs with it:")])


def _title(run: Origin) -> str:
    return f"run {run.run_id} ({printable(run.name)})"


def _backward(known: Provenance, run: Origin) -> Iterator[str]:
    """Yields what a run came from."""
    started = datetime.fromtimestamp(run.started / 1000, UTC)
    by = f", by {run.user}" if run.user else ""
    yield line("trained", f"{started:%Y-%m-%d %H:%M} UTC{by}: {run.status}")
    if parent := known.run(run.parent) if run.parent else None:
        yield line("part of", _title(parent))
    yield line("data", f"{run.data}, md5 {run.data_md5}" if run.data_md5 else "not known")
    if run.data_md5:
        yield line("get it", _how_to_get(run))
    dirty = f", with uncommitted changes: its artifact {DIFF}" if run.is_dirty else ""
    yield line("code", f"git checkout {run.commit}{dirty}" if run.commit else "not known: no commit is on record")
    parameters = ", ".join(f"{key} {value}" for key, value in sorted(run.parameters.items()))
    labels = chain(["parameters"], repeat(""))
    yield from map(line, labels, textwrap.wrap(parameters, WIDTH - LABEL))
    yield line("flow run", run.flow_run or "none: it was started without a flow")
    if run.state_dict:
        yield line("state_dict", f"sha256 {run.state_dict}")


def _how_to_get(run: Origin) -> str:
    """Returns the commands that bring back the data of a run."""
    found = version_with(run.data_md5)
    if found and found.path == run.data:
        return found.how_to_get()
    dataset = run.parameters.get("dataset", "")
    patch = f", apply its artifact {DIFF}" if run.is_dirty else ""
    code = f"git checkout {run.commit}{patch}, then " if run.commit else ""
    return f"no commit's dvc.lock has it; {code}dvc repro transform@{dataset} makes it again"


def _forward(known: Provenance, runs: list[Origin]) -> Iterator[str]:
    """Yields the registered versions that came from runs, or from the runs that these are part of."""
    own, parents = {run.run_id for run in runs}, {run.parent for run in runs}
    versions = known.versions_of(own)
    yield "registered from it:" if versions else "nothing was registered from it"
    yield from (f"  {version.title}" for version in versions)
    if others := known.versions_of(parents - own):
        yield "registered from the run that it is part of:"
        yield from (f"  {version.title}" for version in others)


def _with_runs(known: Provenance, runs: list[Origin], title: str) -> Iterator[str]:
    """Yields the runs that came from data, and the versions that came from these."""
    if not runs:
        yield "MLflow has no run that came from it"
        return
    yield from _forward(known, runs)
    yield title
    yield from _listed(known, runs)


def _listed(known: Provenance, runs: list[Origin]) -> Iterator[str]:
    """Yields a line for each run."""
    for run in runs[:SHOWN]:
        versions = ", ".join(each.title for each in known.versions_of([run.run_id]))
        yield f"  {_title(run)}, {run.status}" + (f", {versions}" if versions else "")
    if len(runs) > SHOWN:
        yield f"  and {len(runs) - SHOWN} more"
