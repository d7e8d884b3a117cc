"""Says where a run, a registered version, a state_dict or data comes from, and what came from it.

    trackway lineage digits@champion

MLflow knows the runs (tasks/tracking/provenance.py), dvc.lock the data (data_versions.py).
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

from flows.reports.data_versions import outputs_below, version_at, version_with
from flows.reports.origins import line, of_data, of_lost_data, of_runs, of_version
from learn.errors import ParamsError, TrackingError, did_you_mean
from tasks.params import Params
from tasks.tracking.names import store_in
from tasks.tracking.provenance import Provenance, asked
from tasks.workspace.files import sha256, sha256_of
from tasks.workspace.paths import models_folder, report_file, state_dict_files, training_folder
from tasks.workspace.report import STATE_DICT_KEY

SHA256, MD5 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{32}(\.dir)?")
VERSION = re.compile(r".+(@[^@/]+|/\d+)")
SHOWN = 8  # largest number of paths that an error names
MAY_BE = (
    "it may be the id of an MLflow run, NAME@ALIAS or NAME/VERSION of a registered model, the path of a state_dict "
    "or of data that a stage made, DVC's md5 of data, the sha256 of a state_dict, a dataset, or an experiment"
)


def lineage(params: Params, target: str, there: Path = Path()) -> str:
    """Returns where something comes from, and what came from it.

    Args:
        params: The parameters.
        target: What MAY_BE lists; datasets.NAME or experiments.NAME if NAME is both.
        there: The folder, below the project's, to which a path is relative.

    Raises:
        ParamsError: It is none of these.
        TrackingError: Only MLflow's store can tell, and there is none, it cannot be used, or it does not know.
    """
    if store := store_in(params):
        return asked(store, lambda known: _answer(params, known, target, there))
    return _answer(params, None, target, there)


def _answer(params: Params, known: Provenance | None, target: str, there: Path) -> str:
    section, _, name = target.rpartition(".")
    if name in params.datasets and section in ("", "datasets"):
        return _of_dataset(known, name)
    if name in params.experiments and section in ("", "experiments"):
        return _of_experiment(params, _store(known, target), name)
    if SHA256.fullmatch(target):
        return _of_state_dict(_store(known, target), target)
    if MD5.fullmatch(target):
        return _of_md5(known, target)
    path = Path(os.path.relpath(there / target))
    if VERSION.fullmatch(target) and not path.exists():
        return _of_version(_store(known, target), target)
    if answer := _of_path(known, path):
        return answer
    similar = did_you_mean(target, [*params.datasets, *params.experiments])
    raise ParamsError([f"nothing is known of {target}; {MAY_BE}{similar}"])


def _store(known: Provenance | None, target: str) -> Provenance:
    if known is None:
        raise TrackingError(f"tracking is null in params.yaml: there is no store that knows where {target} comes from")
    return known


def _of_dataset(known: Provenance | None, name: str) -> str:
    folder = training_folder(name).as_posix()
    data = version_at(folder)
    if data is None:
        raise ParamsError([f"dvc.lock does not have {folder}; next: dvc repro transform@{name}"])
    lines = [of_data(known, data)]
    if known:
        earlier = Counter(run.data_md5 for run in known.of_dataset(name) if run.data_md5 not in ("", data.md5))
        lines += [line("other data", f"md5 {md5}, which {number} of its runs had") for md5, number in earlier.items()]
    return "\n".join(lines)


def _of_experiment(params: Params, known: Provenance, name: str) -> str:
    """Returns the answer for an experiment; the run of the present state_dict is shown, else the latest."""
    files, report = state_dict_files(models_folder(name)), report_file(params.experiment(name).dataset, name)
    wanted = [sha256_of(files)] if all(file.is_file() for file in files) else []
    wanted += [json.loads(report.read_bytes())[STATE_DICT_KEY]] if report.is_file() else []
    runs = known.of_stage(f"train@{name}")
    if not runs:
        raise TrackingError(f"MLflow has no run of {name}; next: dvc repro train@{name}, or trackway relog")
    return of_runs(known, sorted(runs, key=lambda run: [run.state_dict != digest for digest in wanted]))


def _of_state_dict(known: Provenance, digest: str) -> str:
    runs = known.of_state_dict(digest)
    if not runs:
        raise TrackingError(f"MLflow has no run that made the state_dict with the sha256 {digest}")
    return of_runs(known, runs)


def _of_version(known: Provenance, name: str) -> str:
    version = known.version(name)
    if version is None:
        there = [named for each in known.versions for named in each.names]
        raise TrackingError(
            f"{name} is no registered version; there is {', '.join(there) or 'none yet'}{did_you_mean(name, there)}"
        )
    return of_version(known, version)


def _of_md5(known: Provenance | None, md5: str) -> str:
    plain = md5.removesuffix(".dir")
    if known and md5 == plain and (run := known.run(md5)):
        return of_runs(known, [run])
    if data := version_with(md5):
        return of_data(known, data)
    if known and (runs := known.of_data([plain, f"{plain}.dir"])):
        return of_lost_data(known, plain, runs)
    raise ParamsError([f"{md5} is no run of MLflow, and no dvc.lock and no run has data with this md5; {MAY_BE}"])


def _of_path(known: Provenance | None, path: Path) -> str | None:
    """Returns the answer for a path below the project's folder; None if nothing is known of it."""
    data, below = version_at(path.as_posix()), outputs_below(path.as_posix())
    if path.is_file() and path.suffix == ".pt":
        return _of_state_dict(_store(known, path.as_posix()), sha256(path))
    if data:
        return of_data(known, data)
    if below:
        more = f" and {len(below) - SHOWN} more" if len(below) > SHOWN else ""
        raise ParamsError([f"stages made several things in {path}; name one of {', '.join(below[:SHOWN])}{more}"])
    return None
