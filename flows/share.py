"""Shares outputs through DVC's remote, and looks whether each champion's state_dict is there (`trackway push`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dvc.config import NoRemoteError
from dvc.exceptions import DvcException
from dvc.repo import Repo

from flows.edits.lock import read_lock
from learn.errors import DataError, ServerError
from tasks.params import Params, read_yaml
from tasks.tracking.names import store_in
from tasks.tracking.versions import ChampionRecord, champion_records
from tasks.workspace.files import sha256_of
from tasks.workspace.paths import models_folder

if TYPE_CHECKING:
    from dvc_data.hashfile.db import HashFileDB


def transfer(direction: str, remote: str | None) -> None:
    """Pushes or pulls what dvc.lock and DVC's run cache name; DVC shows its progress.

    Args:
        direction: `push` or `pull`.
        remote: Name of the remote; None for the default one.

    Raises:
        ServerError: There is no remote, or DVC failed and has said why.
    """
    with Repo() as repo:
        try:
            repo.cloud.get_remote_odb(remote)
        except NoRemoteError as error:
            raise ServerError(
                "there is no default DVC remote to share outputs through; add one, or name one with --remote: "
                "dvc remote add --default NAME ADDRESS (docs/storing.md)"
            ) from error
        except DvcException as error:
            raise ServerError(" ".join(str(error).split())) from error
    command = [sys.executable, "-m", "dvc", direction, "--run-cache", *(["--remote", remote] if remote else [])]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        lacks = "; what it lacks, trackway push brings from the clone that has it" if direction == "pull" else ""
        raise ServerError(
            f"dvc {direction} failed, for the reason above; the same command goes on where it stopped{lacks}"
        )


def check_champions(params: Params, remote: str | None) -> list[str]:
    """Looks whether the remote has the state_dict of each dataset's champion; returns a line for each.

    Raises:
        DataError: One is not there; the text names all.
    """
    if not (store := store_in(params)):
        return ["tracking is null in params.yaml, so there is no champion to look for"]
    told, missing = [], []
    with Repo() as repo:
        there = repo.cloud.get_remote_odb(remote)
        for champion in champion_records(store, list(params.datasets)):
            what = f"{champion.dataset}'s champion, version {champion.version} ({champion.experiment})"
            files = next((md5s for digest, md5s in _kept(repo, champion) if digest == champion.state_dict), None)
            if files is None:
                missing.append(f"{what}: DVC's cache here does not have its state_dict; push where it was trained")
            elif lacking := [md5 for md5 in files if not there.exists(md5)]:
                missing.append(f"{what}: the remote lacks {len(lacking)} files of its state_dict; push again")
            else:
                told.append(f"{what}: its state_dict is in the remote")
    if missing:
        raise DataError("\n".join([*told, *missing]))
    return told


def _kept(repo: Repo, champion: ChampionRecord) -> Iterator[tuple[str, list[str]]]:
    """Yields sha256 and the files' md5 of each version of an experiment's state_dict in DVC's cache, latest first."""
    folder, cache = models_folder(champion.experiment).as_posix(), repo.cache.local
    runs = Path(repo.stage_cache.cache_dir).glob("*/*/*")
    stages = [*read_lock()["stages"].values(), *(read_yaml(file) for file in runs if folder in file.read_text())]
    for md5 in dict.fromkeys(out["md5"] for stage in stages for out in stage.get("outs", ()) if out["path"] == folder):
        if found := _state_dicts(cache, md5):
            yield sha256_of([Path(cache.oid_to_path(each)) for each in found]), found


def _state_dicts(cache: HashFileDB, folder: str) -> list[str]:
    """Returns the md5 of each seed's state_dict in a version of `models/E/`; nothing if the cache lacks one."""
    if not cache.exists(folder):
        return []
    listed = json.loads(Path(cache.oid_to_path(folder)).read_bytes())
    files = {PurePosixPath(each["relpath"]): each["md5"] for each in listed if each["relpath"].endswith("model.pt")}
    ordered = [files[path] for path in sorted(files, key=lambda path: int(path.parent.name.removeprefix("seed-") or 0))]
    return ordered if all(cache.exists(md5) for md5 in ordered) else []
