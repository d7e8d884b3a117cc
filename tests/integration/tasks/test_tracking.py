"""Every training run in MLflow: queried from a real store."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest
import torch
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tasks.params.flatten import flatten
from tasks.tracking.liveness import this_process
from tasks.tracking.lost import end_what_is_lost
from tasks.tracking.messages import Begin, End, encode
from tasks.tracking.models import _is_being_logged
from tasks.tracking.names import Store
from tasks.tracking.report import PAGE, RECORD
from tasks.tracking.store import connect
from tasks.tracking.tags import (
    CARD_FILE,
    CODE_MD5,
    COMMIT,
    DATA_MD5,
    DECISION,
    DIRTY,
    EXPERIMENT,
    FLOW_RUN_ID,
    FOLDER,
    LATENCY,
    LATENCY_DEVICE,
    LATENCY_P95,
    NOTE,
    OURS,
    PROCESS,
    REPORT,
    STAGE,
    STATE_DICT,
    TEST_DATA,
    THROUGHPUT,
)
from tasks.workspace.environment import TRACKING
from tasks.workspace.files import sha256
from tests.support.project import ROOT, TRACKWAY, Project, shipped

PARAMS = shipped()


def runs(project: Project, dataset: str) -> list[Run]:
    client = mlflow.MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name(dataset)
    assert experiment
    return client.search_runs([experiment.experiment_id])


def run_of(project: Project, name: str) -> Run:
    (found,) = (run for run in runs(project, PARAMS.experiments[name].dataset) if run.info.run_name == name)
    return found


def artifacts(project: Project, run: Run, folder: str | None = None) -> set[str]:
    client = mlflow.MlflowClient(project.tracking_uri)
    found: set[str] = set()
    for item in client.list_artifacts(run.info.run_id, folder):
        found |= artifacts(project, run, item.path) if item.is_dir else {item.path}
    return found


def test_the_store_holds_one_finished_run_an_experiment(by_flow: Project) -> None:
    found = {run.info.run_name: run.info.status for dataset in PARAMS.datasets for run in runs(by_flow, dataset)}
    assert found == dict.fromkeys(PARAMS.experiments, "FINISHED")
    assert sum(len(runs(by_flow, dataset)) for dataset in PARAMS.datasets) == len(PARAMS.experiments)


@pytest.mark.parametrize("name", sorted(PARAMS.experiments))
def test_a_run_holds_everything_about_its_experiment(by_flow: Project, name: str) -> None:
    run, experiment = run_of(by_flow, name), PARAMS.experiments[name]
    params, metrics, tags = run.data.params, run.data.metrics, run.data.tags
    assert params["optimizer.lr"] == repr(experiment.optimizer.lr)
    assert params["model.name"] == experiment.model.name
    assert params["epochs"] == str(experiment.epochs)
    assert {"device", "threads", "seed", "loss.name", "batch_size", "split.test", "parameters"} <= set(params)

    held_out = "validation" if PARAMS.datasets[experiment.dataset].split.validation else "test"
    client = mlflow.MlflowClient(by_flow.tracking_uri)
    for key in ("train/loss", f"{held_out}/loss", "lr", "samples_per_second"):
        history = client.get_metric_history(run.info.run_id, key)
        assert [point.step for point in sorted(history, key=lambda p: p.step)] == list(range(1, experiment.epochs + 1))
    assert metrics["train/seconds"] > 0
    assert 0 < metrics[LATENCY] <= metrics[LATENCY_P95]
    assert metrics[THROUGHPUT] > 0
    assert tags[LATENCY_DEVICE] == "cpu, 1 thread"
    evaluated = json.loads(by_flow.read(f"metrics/{experiment.dataset}/{name}.json"))
    measured = {"validation": evaluated.pop("validation", {}), "test": evaluated}
    assert bool(measured["validation"]) == (held_out == "validation")
    for part, values in measured.items():
        for key in set(values) - {"parameters", "epochs"}:
            assert metrics[f"{part}/{key}"] == values[key]

    state_dict = by_flow.folder / "models" / name / "model.pt"
    assert tags[STATE_DICT] == sha256(state_dict)
    lock = by_flow.read("dvc.lock")
    assert tags[DATA_MD5] in lock
    code = json.loads(tags[CODE_MD5])
    assert f"learn/models/{experiment.model.name}.py" in code
    assert all(md5 in lock for md5 in code.values())
    assert tags[STAGE] == f"train@{name}"
    assert tags[COMMIT] == by_flow.run("git", "rev-parse", "HEAD").stdout.strip()
    assert len(tags[FLOW_RUN_ID]) == 36
    assert tags[f"{OURS}version.torch"] == torch.__version__
    data = {each.tags[0].value: (each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs}
    assert data.pop("training") == (experiment.dataset, tags[DATA_MD5])
    assert data.pop("test") == (f"{experiment.dataset} test", tags[TEST_DATA])
    assert list(data) == [part for part in ("validation",) if measured[part]]
    rows = {json.loads(each.dataset.profile)["num_rows"] for each in run.inputs.dataset_inputs if each.dataset.profile}
    assert rows == {PARAMS.datasets[experiment.dataset].sizes["train"]}
    note = tags[NOTE]
    assert f"The {held_out} split decides." in note
    assert f"| {held_out} loss | {measured[held_out]['loss']:.4f} |" in note

    figures = {"loss_curves"}
    classes = PARAMS.datasets[experiment.dataset].source.classes
    figures |= {"confusion_matrix"} if classes else {"predictions"}
    figures |= {"decision_boundary"} if classes and experiment.dataset != "digits" else set()
    figures |= {"prediction_grid"} if experiment.dataset == "digits" else set()
    registered = {version.run_id for version in client.search_model_versions(f"name = '{experiment.dataset}'")}
    assert artifacts(by_flow, run) == {
        "summary.txt",
        "state_dict/model.pt",
        f"history/{name}.csv",
        "report.json",
        "predictions.npz",
        "diagnosis.txt",
        *(f"figures/{figure}.png" for figure in figures),
        *({"classification_report.txt"} if classes else set()),
        *({"model_card.md"} if run.info.run_id in registered else set()),
        *({PAGE, RECORD} if REPORT in tags else set()),
    }


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # mlflow.pyfunc's own
@pytest.mark.parametrize("name", ["line-parameters", "circles-relu", "digits-cnn"])
def test_the_model_of_a_run_takes_raw_inputs_in_batches_of_any_size(
    by_flow: Project, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pytorch

    from learn.training.build import build_loss, build_model

    monkeypatch.setenv("MLFLOW_TRACKING_URI", by_flow.tracking_uri)  # set_tracking_uri would hold for later tests too
    dataset_name = PARAMS.experiments[name].dataset
    run, dataset = run_of(by_flow, name), PARAMS.datasets[dataset_name]
    (output,) = run.outputs.model_outputs
    uri = f"models:/{output.model_id}"
    info = mlflow.models.get_model_info(uri)
    assert info.signature.inputs.inputs[0].shape == (-1, *dataset.shape)
    assert info.saved_input_example_info
    assert not [file for file in artifacts_of(by_flow, output.model_id) if file.endswith(("pkl", "pth"))]
    served, graph = mlflow.pyfunc.load_model(uri), mlflow.pytorch.load_model(uri)
    example, classes = served.input_example, dataset.source.classes
    (test,) = (by_flow.folder / "data/transformed" / dataset_name).glob("*/test-inputs.npy")
    stored = np.load(test)
    places = np.linspace(0, len(stored) - 1, 4).round().astype(int)
    np.testing.assert_array_equal(example, stored[places], "raw, and of the whole test part")
    # eager, from the state_dict
    criterion = build_loss(PARAMS.experiments[name].loss.name, {}, classes)
    model = build_model(*_model(name), dataset.shape, criterion.output_size)
    model.load_state_dict(torch.load(by_flow.folder / "models" / name / "model.pt", weights_only=True))
    for batch in (1, 3, 7):
        inputs = torch.from_numpy(np.resize(example, (batch, *dataset.shape)))
        with torch.inference_mode():
            expected = model(inputs.float() / dataset.source.scale)
            torch.testing.assert_close(graph(inputs.to(torch.from_numpy(stored).dtype))["output"], expected)
        answers = served.predict(inputs.numpy())
        if classes:
            probabilities = criterion.probabilities(expected)
            assert answers["class"].tolist() == [classes[index] for index in criterion.predict(expected)]
            found = [list(row.values()) for row in answers["probabilities"]]
            assert {tuple(row) for row in answers["probabilities"]} == {classes}
            np.testing.assert_allclose(found, probabilities.numpy(), rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_allclose(answers["value"], expected[:, 0].numpy(), rtol=1e-5, atol=1e-6)
    if example.dtype == float:
        for wrong in (np.nan, 1e300):
            with pytest.raises(MlflowException, match="an input is NaN, infinite or too large; give finite numbers"):
                served.predict(np.full_like(example, wrong))
    with pytest.raises(MlflowException, match="there is no input; give one or more"):
        served.predict(example[:0])


def artifacts_of(project: Project, model_id: str) -> list[str]:
    client = mlflow.MlflowClient(project.tracking_uri)
    folder = Path(client.get_logged_model(model_id).artifact_location.removeprefix("file://"))
    return [str(file.relative_to(folder)) for file in folder.rglob("*")]


def _model(name: str) -> tuple[str, dict[str, object]]:
    model = PARAMS.experiments[name].model
    return model.name, model.arguments


def test_each_dataset_s_best_model_is_its_champion(by_flow: Project) -> None:
    client = mlflow.MlflowClient(by_flow.tracking_uri)
    for dataset, best in {"line": "line-linear", "circles": "circles-relu", "blobs": "blobs-linear"}.items():
        champion = client.get_model_version_by_alias(dataset, "champion")
        assert champion.tags[EXPERIMENT] == best
        assert champion.run_id == run_of(by_flow, best).info.run_id
        assert by_flow.read(f"metrics/{dataset}.csv").splitlines()[1].startswith(best)


def test_weights_are_the_same_to_the_bit_without_tracking(finished: Project) -> None:
    outputs = [finished.folder / file for file in ("models/digits-mlp/model.pt", "plots/history/digits-mlp.csv")]
    before = [output.read_bytes() for output in outputs]
    finished.edit("params.yaml", "tracking: sqlite:///mlruns/mlflow.db", "tracking: null")
    for output in outputs:
        output.unlink()
    finished.stage("train@digits-mlp")
    assert [output.read_bytes() for output in outputs] == before
    assert len(runs(finished, "digits")) == 2


def test_a_stage_run_again_by_hand_adds_nothing_but_a_new_training_run(finished: Project) -> None:
    for stage in ("evaluate@digits-mlp", "register@digits"):
        finished.stage(stage)
    run = run_of(finished, "digits-mlp")
    assert len(run.outputs.model_outputs) == 1
    client = mlflow.MlflowClient(finished.tracking_uri)
    assert len(client.get_metric_history(run.info.run_id, "test/accuracy")) == 1
    assert len(client.search_model_versions("name = 'digits'")) == 1


def test_a_worse_experiment_does_not_take_the_championship(finished: Project) -> None:
    measured = [json.loads(finished.read(f"metrics/digits/digits-{name}.json")) for name in ("cnn", "mlp")]
    before, other = (numbers["validation"]["accuracy"] for numbers in measured)
    finished.edit("params.yaml", "lr: 0.003", "lr: 0.00003")  # digits-cnn, the champion, is no good any more
    log = finished.run("dvc", "repro").stdout
    assert f"digits-cnn (version 1, validation accuracy {before:.4f}) stays champion; digits-mlp has {other:.4f}" in log
    client = mlflow.MlflowClient(finished.tracking_uri)
    assert client.get_model_version_by_alias("digits", "champion").version in (1, "1")


def test_the_validation_part_decides_and_the_test_part_is_reported(finished: Project) -> None:
    """By the test part digits-cnn is better. Then the validation part is one picture: digits-mlp sees one class.

    The new champion is told although its card cannot be written, for something is in its place.
    """
    decides(finished, "digits", "require: better")
    file = finished.folder / "metrics/digits/digits-mlp.json"
    numbers = json.loads(file.read_bytes())
    best = json.loads(finished.read("metrics/digits/digits-cnn.json"))
    numbers["validation"]["accuracy"], numbers["accuracy"] = 0.999, best["accuracy"] - 0.1
    file.write_text(json.dumps(numbers))
    said = f"digits-mlp is champion (version 2, validation accuracy 0.9990, test accuracy {numbers['accuracy']:.4f})"
    place = finished.folder / "mlruns/artifacts/digits" / run_of(finished, "digits-mlp").info.run_id / "artifacts"
    (place / CARD_FILE).mkdir()
    log = finished.stage("register@digits").stdout
    assert "register digits: MLflow does not have the model cards yet: " in log
    assert f"register digits: {said}" in log
    log = finished.run(*TRACKWAY, "promote", "digits", "digits-mlp", "--because", "it is").stdout
    assert "promote digits: MLflow does not have the model cards yet: " in log
    assert "digits-mlp is champion (version 2" in log
    assert finished.read("metrics/digits.csv").splitlines()[1].startswith("digits-mlp,")
    shown = finished.run("python", "-m", "flows.cli", "results").stdout
    (line,) = [line for line in shown.splitlines() if " champion" in line and "digits" in line]
    assert {"digits-mlp", "99.90%", f"{numbers['accuracy']:.2%}"} <= set(line.split())
    finished.python(LOAD_CHAMPION)

    inputs = finished.folder / "data/transformed/digits/training/validation-inputs.npy"
    pictures = np.load(inputs)
    inputs.unlink()  # it may be a link into DVC's cache
    np.save(inputs, np.broadcast_to(pictures[:1], pictures.shape))
    log = finished.stage("evaluate@digits-mlp").stdout
    assert "for all of the validation part's samples" in log
    assert "digits-mlp cannot be champion: it says always " in finished.stage("register@digits").stdout
    assert "the test part decides, for there is no validation part" in finished.stage("register@line").stdout


LOAD_CHAMPION = """
import mlflow, numpy as np
mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
model = mlflow.pyfunc.load_model("models:/digits@champion")
assert len(model.predict(np.full((3, 1, 8, 8), 16, np.uint8))["probabilities"][2]) == 10
"""


def decides(project: Project, dataset: str, rule: str) -> None:
    """Adds to what `champion` of a dataset says."""
    text = project.read("params.yaml")
    before, entry, after = text.partition(f"  {dataset}:\n    source")
    (project.folder / "params.yaml").write_text(
        before + entry + after.replace("champion: {metric: accuracy", f"champion: {{metric: accuracy, {rule}", 1)
    )


def test_a_champion_is_measured_anew_on_other_data(finished: Project) -> None:
    """It stays if it is better there than two that learned nothing; then it loses its place to a better one."""
    finished.edit("params.yaml", "stratify: true, seed: 42}", "stratify: true, seed: 43}")
    finished.edit("params.yaml", "lr: 0.003", "lr: 0.00003")
    finished.edit("params.yaml", "lr: 0.1}\n    epochs: 30", "lr: 0.001}\n    epochs: 1")
    log = finished.run("dvc", "repro").stdout
    assert "register digits: the champion is measured anew on the validation part, which is other data now" in log
    stays = (
        r"digits-cnn \(version 1, validation accuracy 0\.9\d+\) stays champion; (the newly trained )?digits-\w+ has 0\."
    )
    assert re.search(stays, log)
    finished.edit("params.yaml", "cluster_std: 1.5, seed: 42", "cluster_std: 1.5, seed: 43")
    log = finished.run("dvc", "repro", "register@blobs").stdout
    assert re.search(r"blobs-linear is champion \(version 2, .*; version 1 has 0\.\d+ there \(p = \S+e-\d+\)", log)
    client = mlflow.MlflowClient(finished.tracking_uri)
    assert str(client.get_model_version_by_alias("blobs", "previous-champion").version) == "1"
    finished.edit(
        "params.yaml",
        "seed: 42}\n    transform: {}\n    champion: {metric: accuracy}\n  digits",
        "seed: 42}\n    transform: {}\n    champion: {metric: loss}\n  digits",
    )
    finished.edit("params.yaml", "cluster_std: 1.5, seed: 43", "cluster_std: 1.5, seed: 44")
    log = finished.run("dvc", "repro", "register@blobs").stdout
    assert "register blobs: the champion is measured anew on the test part, which is other data now" in log
    assert re.search(r"blobs-linear is champion \(version 3, test loss 0\.\d+\); version 2 has \d+\.\d+ there", log)


PREDICT = """
import mlflow.pytorch, torch
mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
inputs = torch.full((2, 1, 8, 8), 16, dtype=torch.uint8)
print(mlflow.pytorch.load_model("models:/digits@champion")(inputs)["output"].sum().item())
"""


def described(project: Project, name: str) -> str:
    """What MLflow's page shows of a version, which is its model card."""
    version = mlflow.MlflowClient(project.tracking_uri).get_model_version_by_alias(*name.split("@"))
    return str(version.description)


def test_a_champion_is_chosen_by_hand_and_goes_back(finished: Project) -> None:
    """Each time `models:/digits@champion` answers with another model, and a registration changes nothing."""
    because = ("--because", "smaller on disk")
    first = finished.python(PREDICT).stdout
    said = finished.run(*TRACKWAY, "promote", "digits", "digits-mlp", *because).stdout
    told = r"digits-mlp is champion \(version 2, validation accuracy 0\.9667, .*\), chosen by hand: smaller on disk"
    assert re.search(told, said), said
    second = finished.python(PREDICT).stdout
    assert second != first
    assert "chosen by hand: smaller on disk" in described(finished, "digits@champion")
    assert re.search(rf"no new champion: {told}", finished.stage("register@digits").stdout)

    said = finished.run(*TRACKWAY, "rollback", "digits").stdout
    told = "digits-cnn (version 1) is champion of digits again; version 2 was, and was rolled back"
    assert told in said
    assert told in described(finished, "digits@champion")
    assert finished.python(PREDICT).stdout == first
    assert "digits-cnn stays champion (version 1)" in finished.stage("register@digits").stdout
    finished.run(*TRACKWAY, "rollback", "digits")
    assert finished.python(PREDICT).stdout == second

    finished.run(*TRACKWAY, "promote", "circles", "circles-linear", *because)
    assert "no new champion: circles-linear is champion (version 2" in finished.stage("register@circles").stdout
    finished.edit("params.yaml", "lr: 0.1}\n    epochs: 1000", "lr: 0.1}\n    epochs: 900")
    log = finished.run("dvc", "repro", "register@circles").stdout  # a model of today was refused, this one is new
    assert "circles-relu is champion (version 3, " in log
    for wrong, why in {
        ("rollback", "line"): "line has no champion before the present one; next: trackway promote line EXPERIMENT",
        ("rollback", "lines"): "datasets.lines is not in params.yaml",
        ("promote", "digits", "line-linear", *because): "line-linear is no experiment of digits; it must be one of ",
        ("promote", "digits", "digits-mlp", "--because", " "): "--because is empty; say why",
    }.items():
        done = finished.run(*TRACKWAY, *wrong, check=False)
        assert done.returncode == 1
        assert why in done.stdout
        assert "Traceback" not in done.stdout


def test_one_that_chance_could_have_made_better_is_challenger(finished: Project) -> None:
    """The other way round: digits-mlp is champion, and digits-cnn has some of 180 more samples right."""
    client = mlflow.MlflowClient(finished.tracking_uri)
    finished.edit("params.yaml", "lr: 0.003", "lr: 0.00003")
    decides(finished, "digits", "require: any")
    assert "digits-mlp is champion (version 2" in finished.run("dvc", "repro").stdout
    finished.edit("params.yaml", "lr: 0.00003", "lr: 0.003")
    finished.edit("params.yaml", "require: any", "require: separable")
    log = finished.run("dvc", "repro").stdout
    told = re.search(
        r"digits-mlp \(version 2, validation accuracy 0\.9667\) stays champion; digits-cnn has 0\.9\d+, which is not "
        r"separable from it \(p = 0\.\d+\); [\d,]+ samples or at least \d+ more seeds would tell a difference of "
        r"1 point",
        log,
    )
    assert told, log
    challenger = client.get_model_version_by_alias("digits", "challenger")
    assert (challenger.tags[EXPERIMENT], challenger.tags[DECISION]) == ("digits-cnn", told[0])
    assert 0.05 < float(challenger.tags[f"{DECISION}.p"]) <= 1
    finished.python(LOAD_CHAMPION)
    finished.edit("params.yaml", "require: separable", "max_parameters: 4000, max_latency_ms: 0.0001")
    log = finished.run("dvc", "repro").stdout
    assert "digits-mlp cannot be champion: it has 4,810 parameters, more than champion.max_parameters allows" in log
    slow = run_of(finished, "digits-cnn").data.metrics[LATENCY]
    assert f"digits-cnn cannot be champion: it takes {slow:.4g} ms for one sample (cpu, 1 thread), longer than" in log
    finished.edit("params.yaml", "max_parameters: 4000, max_latency_ms: 0.0001", "require: better")
    assert "digits-cnn is champion (version 1, " in finished.run("dvc", "repro").stdout
    assert "challenger" not in client.get_registered_model("digits").aliases


def test_killed_training_leaves_a_run_that_says_so(finished: Project) -> None:
    finished.edit("params.yaml", "epochs: 30", "epochs: 100000")
    stage = subprocess.Popen(
        [sys.executable, "-m", "tasks.train", "digits-mlp"], cwd=finished.folder, stdout=subprocess.PIPE, text=True
    )
    assert stage.stdout
    next(line for line in stage.stdout if "parameters" in line)
    deadline = time.monotonic() + 60
    while len(runs(finished, "digits")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    stage.send_signal(signal.SIGKILL)
    stage.wait()
    while run_status(finished) == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert run_status(finished) == "KILLED"
    stage.stdout.close()


def test_a_model_that_this_process_could_not_finish_is_not_taken_for_one_in_the_making(tmp_path: Path) -> None:
    machine, _, _ = json.loads(this_process())
    parent = psutil.Process().parent()
    assert parent
    other = json.dumps([machine, parent.pid, parent.create_time()])
    with connect(f"sqlite:///{tmp_path}/mlflow.db") as client:
        for process, expected in ((this_process(), False), (other, True)):
            logged = client.create_logged_model("0", tags={PROCESS: process})
            assert _is_being_logged(client, logged.model_id) == expected


def test_what_was_begun_on_a_machine_that_is_gone_ends_at_once(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/mlflow.db")
    gone, other = (json.dumps([f"{host} boot pid:[1]", 1, 0.0]) for host in ("gone", "other"))
    of_ours = {STAGE: "train@a#1", FOLDER: "here:/clone", PROCESS: gone}
    kept = ({PROCESS: other}, {FOLDER: "there:/clone"}, {STAGE: "train@b"}, {PROCESS: this_process()})
    with connect(store.uri) as client:
        experiment = client.create_experiment("data")
        ended, *running = (client.create_run(experiment, tags=of_ours | tags).info.run_id for tags in ({}, *kept))
        for process in (gone, other):
            client.create_logged_model(experiment, source_run_id=ended, tags={PROCESS: process})
    end_what_is_lost(store, "data", "a", "here:/clone", "gone")
    end_what_is_lost(store, "data", "a", "here:/clone", "gone")
    assert client.get_run(ended).info.status == "KILLED"
    assert {client.get_run(run).info.status for run in running} == {"RUNNING"}
    assert [model.tags[PROCESS] for model in client.search_logged_models([experiment])] == [other]


def test_a_message_cut_short_by_a_kill_ends_the_run_as_killed(finished: Project) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tasks.tracking.writer", "digits", "digits-mlp", ""],
        input=encode(Begin({}, {}, "")) + '{"kind": "Epochs", "epochs": [{"number": 1, "tim',
        cwd=finished.folder,
        env=os.environ | {TRACKING: "sqlite:///mlruns/mlflow.db"},
        text=True,
    )
    assert done.returncode == 0
    assert run_status(finished) == "KILLED"


def run_status(project: Project) -> str:
    return max(runs(project, "digits"), key=lambda run: run.info.start_time).info.status


def test_a_store_that_cannot_be_written_stops_the_stage_with_its_reason(finished: Project) -> None:
    database = finished.folder / "mlruns/mlflow.db"
    database.write_bytes(b"this is not a database, whatever its name says")
    done = finished.stage("train@digits-mlp", check=False)
    assert done.returncode == 1
    assert "error: the MLflow store sqlite:///mlruns/mlflow.db cannot be used: " in done.stdout
    assert "file is not a database" in done.stdout
    assert "tracking: null in params.yaml trains without it" in done.stdout
    assert "Traceback" not in done.stdout


WRITE = (sys.executable, "-m", "tasks.tracking.writer", "digits", "digits-mlp", "")
MESSAGE = encode(Begin({}, {}, "")) + encode(End("FAILED"))


def test_several_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    (tmp_path / "message").write_text(MESSAGE)
    processes = []
    for _ in range(4):
        with (tmp_path / "message").open() as message:
            processes.append(subprocess.Popen(WRITE, cwd=ROOT, stdin=message, env=os.environ | {TRACKING: uri}))
    assert [process.wait(120) for process in processes] == [0, 0, 0, 0]
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FAILED"] * 4


def test_a_training_that_dvc_did_not_record_leaves_no_second_finished_run(finished: Project) -> None:
    """Killed, or with a full disk, after its run was written: DVC trains again and ends with the same bytes."""
    before = len(runs(finished, "line"))
    finished.edit("params.yaml", "lr: 0.01}\n    epochs: 100\n", "lr: 0.02}\n    epochs: 100\n")
    for _ in range(2):
        finished.stage("train@line-parameters")
    (finished.folder / "models/line-parameters/model.pt").write_bytes(b"half")
    finished.run("dvc", "repro", "register@line")
    finished.stage("train@line-parameters")  # once more, after it was evaluated
    new = sorted(runs(finished, "line"), key=lambda run: run.info.start_time)[before:]
    assert [run.info.status for run in new] == ["KILLED", "KILLED", "FINISHED", "FINISHED"]
    assert len({run.data.tags[STATE_DICT] for run in new}) == 1
    assert new[2].outputs.model_outputs, "it was evaluated"


def test_with_tracking_off_nothing_is_started(finished: Project) -> None:
    """No process, no file; and MLflow is not even imported."""
    shutil.rmtree(finished.folder / "mlruns")
    finished.edit("params.yaml", "tracking: sqlite:///mlruns/mlflow.db", "tracking: null")
    imports = (
        "import atexit, runpy, sys\n"
        "sys.addaudithook(lambda event, what: event == 'subprocess.Popen' and print('started:', what[1]))\n"
        "atexit.register(lambda: print('imported:', *sorted(sys.modules)))\n"
        "runpy.run_module('tasks.train', run_name='__main__')"
    )
    done = finished.run("python", "-c", imports, "line-parameters").stdout
    assert "epoch 100/100" in done
    assert "tasks.tracking" not in "".join(line for line in done.splitlines() if line.startswith("started:"))
    assert " torch " in done.partition("imported: ")[2]
    assert " mlflow " not in done.partition("imported: ")[2]
    assert not (finished.folder / "mlruns").exists()


def test_a_run_says_which_changes_were_not_committed(finished: Project) -> None:
    client = mlflow.MlflowClient(finished.tracking_uri)

    def written() -> Run:
        subprocess.run(
            WRITE, input=MESSAGE, text=True, cwd=finished.folder, check=True,
            env=os.environ | {TRACKING: "sqlite:///mlruns/mlflow.db"},
        )  # fmt: skip
        return max(runs(finished, "digits"), key=lambda run: run.info.start_time)

    finished.commit("results")
    (finished.folder / "dvc.lock").write_text("")  # each run changes it
    clean = written()
    assert clean.data.tags[DIRTY] == "false"
    finished.run("git", "init", "--quiet", "another")  # without a commit: git add fails on it
    assert "git.diff" not in artifacts(finished, clean)

    finished.edit("params.yaml", "lr: 0.003", "lr: 0.004")
    finished.edit("params.yaml", "notify: []", 'notify: ["https://me:s3cr3t@example.org/hook"]')
    (finished.folder / "learn/models/mine.py").write_text("MINE = 1\n")
    index = (finished.folder / ".git/index").read_bytes()
    dirty = written()
    assert dirty.data.tags[DIRTY] == "true"
    assert "uncommitted changes" in dirty.data.tags[NOTE]
    assert (finished.folder / ".git/index").read_bytes() == index
    shown = Path(client.download_artifacts(dirty.info.run_id, "git.diff", str(finished.folder.parent)))
    assert "s3cr3t" not in shown.read_text()
    patch = shown.read_text().replace("***@", "me:s3cr3t@")
    changed = {name: finished.read(name) for name in ("params.yaml", "learn/models/mine.py")}
    finished.run("git", "stash", "--include-untracked", "--quiet", GIT_AUTHOR_NAME="t", GIT_COMMITTER_NAME="t",
                 GIT_AUTHOR_EMAIL="t@example.org", GIT_COMMITTER_EMAIL="t@example.org")  # fmt: skip
    subprocess.run(["git", "apply", "-"], input=patch, text=True, cwd=finished.folder, check=True)
    assert {name: finished.read(name) for name in changed} == changed, "the patch on the commit is what was trained"

    shutil.rmtree(finished.folder / ".git")
    assert DIRTY not in written().data.tags


def test_settings_are_flattened_with_dots() -> None:
    assert flatten({"optimizer": {"name": "SGD", "lr": 0.1}, "scheduler": None, "hidden": [1, 2]}) == {
        "optimizer.name": "SGD",
        "optimizer.lr": 0.1,
        "hidden": [1, 2],
    }


def test_trainings_that_start_together_on_a_new_store_do_not_disturb_each_other(finished: Project) -> None:
    shutil.rmtree(finished.folder / "mlruns")
    names = ["digits-mlp", "digits-cnn", "digits-mlp", "line-linear"]
    command = [sys.executable, "-m", "tasks.train"]
    trainings = [subprocess.Popen([*command, name], cwd=finished.folder, stdout=subprocess.DEVNULL) for name in names]
    assert [training.wait(120) for training in trainings] == [0, 0, 0, 0]
    found = sorted(run.info.run_name for dataset in ("digits", "line") for run in runs(finished, dataset))
    assert found == sorted(names)
