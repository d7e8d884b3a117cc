"""What a stage is said to need of a node, what that node has, and the folder that the stage gets there."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from flows.executors.demands import resources, shown, why_waiting
from flows.executors.versions import versions, what_differs
from flows.executors.work_folder import keep_undelivered, take_undelivered, work_folder
from tasks.params import load_params
from tasks.params.flow import ResourcesConfig
from tests.support.project import ROOT


def test_the_nearest_entry_says_what_a_stage_needs_and_a_person_reads_it() -> None:
    params = load_params(ROOT / "params.yaml")
    said = {"train": {"cpus": 4, "memory": "8GiB"}, "digits-cnn": {"gpus": 0.5, "accelerator": "A100"}}
    flow = params.flow.model_validate(params.flow.model_dump() | {"resources": said})
    params = params.model_copy(update={"flow": flow})
    assert resources(params, "split@digits") == {"num_cpus": 1, "num_gpus": 0}
    options = resources(params, "train@digits-cnn")
    assert options == {"num_cpus": 4, "num_gpus": 0.5, "memory": 8 * 2**30, "accelerator_type": "A100"}
    node = {"CPU": 8.0, "memory": 1e11, "GPU": 1.0, "node:10.0.0.1": 1.0}
    needed = "4 CPU, 0.5 GPU, 8 GiB, A100"
    assert f"waits, for no node of the cluster has {needed}; it" in why_waiting("train@digits-cnn", options, [node])
    fit = node | {"accelerator_type:A100": 1.0}
    assert why_waiting("a", options, [node, fit]).endswith(f" with room for it, or for its start there: {needed}")
    assert why_waiting("a", options, [{"CPU": 0.0}]).startswith("a waits, for the cluster has no node for stages; add")
    together = params.experiments["digits-cnn"].model_copy(update={"devices": 2})
    params = params.model_copy(update={"experiments": {"digits-cnn": together}, "threads": 3})
    assert resources(params, "train@digits-cnn")["num_cpus"] == 4, "an entry goes before what the devices take"
    params.flow.resources.clear()
    assert resources(params, "train@digits-cnn") == {"num_cpus": 6, "num_gpus": 0}
    assert resources(params, "evaluate@digits-cnn") == {"num_cpus": 3, "num_gpus": 0}
    assert shown({"CPU": 1.0, "GPU": 0.0, "memory": 2**29, "node:10.0.0.1": 0.001}) == "1 CPU, 0.5 GiB"


def test_more_than_one_gpu_is_a_whole_number() -> None:
    assert ResourcesConfig(gpus=2).gpus == 2
    with pytest.raises(ValidationError, match="it must be a whole number, or less than 1"):
        ResourcesConfig(gpus=1.5)


def code(folder: Path, name: str) -> Path:
    """A flow's code, as Ray unpacks it."""
    (folder / name).mkdir()
    (folder / name / "params.yaml").touch()
    return folder / name


def test_a_stage_has_a_work_folder_for_itself(tmp_path: Path) -> None:
    unpacked = code(tmp_path, "code")
    with work_folder(tmp_path, unpacked) as first, work_folder(tmp_path, unpacked) as second:
        assert first != second
        (first / "data/raw/line").mkdir()
        (first / "data/raw/_weights/net.pt").touch()
    assert not (first / "data/raw/line").exists(), "the cache has it"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=first) as ending:
        with work_folder(tmp_path, unpacked) as other:
            assert other == second, "not that of a killed worker whose stage has not ended yet"
        ending.kill()
    with work_folder(tmp_path, unpacked) as again:
        assert again == first
        assert not (again / "data/raw/line").exists()
        assert (again / "data/raw/_weights/net.pt").exists()
    assert (second / "data/raw/_weights/net.pt").exists(), "one download serves all stages"


def test_a_nearly_full_disk_keeps_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = code(tmp_path, "code")
    monkeypatch.setattr("flows.executors.work_folder.NEARLY_FULL", 0.0)
    half, whole = (tmp_path / "cache/files/md5/1a" / name for name in (".x.tmp", "2b"))
    with work_folder(tmp_path, unpacked):
        half.parent.mkdir(parents=True)
        half.touch()
        whole.touch()
    assert half.exists(), "there is room"
    monkeypatch.setattr("flows.executors.work_folder.NEARLY_FULL", 1.0)
    with work_folder(tmp_path, unpacked):
        with work_folder(tmp_path, unpacked):
            pass
        assert half.exists(), "another stage may be writing it"
    assert not half.exists()
    assert whole.exists()


def test_a_node_s_other_versions_are_named() -> None:
    flow = versions()
    assert flow["torch"][0].isdigit()
    assert "+" not in flow["torch"], "builds for another device count as the same"
    assert what_differs(flow, flow) == ""
    there = flow | {"numpy": "2.0.1", "timm": "none"}
    assert what_differs(flow, there) == f"timm none instead of {flow['timm']}, numpy 2.0.1 instead of {flow['numpy']}"
    assert what_differs({"torch": "2.11.0"}, {}) == "torch none instead of 2.11.0"


def test_a_run_that_mlflow_did_not_take_is_there_for_later_code_of_the_same_project(tmp_path: Path) -> None:
    with work_folder(tmp_path, code(tmp_path, "before")) as work:
        keep_undelivered(tmp_path, work, "host:/project")
        (work / "mlruns/undelivered/net-1.jsonl").write_text("left by a kill")
    with work_folder(tmp_path, code(tmp_path, "after")) as other:
        keep_undelivered(tmp_path, other, "host:/another")
        assert take_undelivered(other) == {}
        keep_undelivered(tmp_path, other, "host:/project")
        with (other / "mlruns/undelivered/net-1.jsonl").open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            assert take_undelivered(other) == {}, "another stage writes it"
        assert take_undelivered(other) == {"net-1.jsonl": "left by a kill"}
        assert take_undelivered(other) == {}
