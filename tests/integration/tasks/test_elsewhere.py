"""What MLflow keeps is enough: models are loaded in a process that does not have this project."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import mlflow
import numpy as np
import torch

from learn.training.build import build_loss, build_model
from tasks.tracking.tags import CARD_FILE, EXPERIMENT
from tests.support.pages import blocks
from tests.support.project import Project, shipped

PARAMS = shipped()
# Python without the folder of its start, its variables and its .pth files, one of which names this project.
PYTHON = (sys.executable, "-I", "-S", "-W", "ignore", "-c")
ALONE = f"""
import importlib.util, json, os, sys
sys.path.append({sysconfig.get_path("purelib")!r})
assert not any(importlib.util.find_spec(name) for name in ("learn", "tasks", "flows", "web"))
"""
USE = f"""{ALONE}
import contextlib, io, mlflow, numpy as np
store, project, codes = sys.argv[1:]
mlflow.set_tracking_uri(store)
for file in os.listdir("."):
    model = mlflow.pyfunc.load_model("models:/" + file.removesuffix(".npy"))
    with open(file + ".json", "w") as stream:
        json.dump(model.predict(np.load(file)).to_dict("list"), stream)
os.chdir(project)  # the code of the cards is to be run there
said = {{}}
for name, code in json.loads(codes).items():
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code, {{}})
    said[name] = output.getvalue()
print(json.dumps(said))
"""


def test_each_model_predicts_there_as_its_state_dict_does_here(by_flow: Project, tmp_path: Path) -> None:
    """And the code in the model card of each champion runs there."""
    client = mlflow.MlflowClient(by_flow.tracking_uri)
    logged = [
        (str(client.get_run(model.source_run_id).info.run_name), model.model_id)
        for dataset in PARAMS.datasets
        for model in client.search_logged_models([experiment_id(client, dataset)])
        if model.source_run_id
    ]
    assert {name for name, _ in logged} == set(PARAMS.experiments)
    champion = client.get_model_version_by_alias("digits", "champion").tags[EXPERIMENT]
    expected = {}
    for name, uri in (*logged, (champion, "digits@champion")):
        inputs, expected[uri] = predicted_here(by_flow, name)
        np.save(tmp_path / f"{uri}.npy", inputs)
    codes = {dataset: code_in_card(client, dataset) for dataset in PARAMS.datasets}
    (shown_in_docs,) = blocks("python", "docs/serving.md")
    command = (*PYTHON, USE, by_flow.tracking_uri, str(by_flow.folder), json.dumps(codes | {"docs": shown_in_docs}))
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    for uri, (classes, numbers) in expected.items():
        there = json.loads((tmp_path / f"{uri}.npy.json").read_text(encoding="utf-8"))
        assert there.get("class", []) == classes, uri
        found = [list(row.values()) for row in there["probabilities"]] if classes else there["value"]
        np.testing.assert_allclose(found, numbers, rtol=1e-5, atol=1e-6, err_msg=uri)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.pop("docs").startswith("['0', '1', '2', '3']\n")
    for name, shown in said.items():
        names = PARAMS.datasets[name].source.classes
        head, *rows = shown.splitlines()[-5:]
        assert head.split() == (["class", "probabilities"] if names else ["value"]), shown
        told = {row.partition("{")[0].split(maxsplit=1)[1].strip() for row in rows} if names else set()
        assert told <= set(names), shown


def experiment_id(client: mlflow.MlflowClient, dataset: str) -> str:
    found = client.get_experiment_by_name(dataset)
    assert found
    return found.experiment_id


def predicted_here(project: Project, name: str) -> tuple[np.ndarray, tuple[list[str], np.ndarray]]:
    """Raw inputs, and what the model with the experiment's state_dict makes of them: classes, and numbers for each."""
    experiment = PARAMS.experiments[name]
    dataset = PARAMS.datasets[experiment.dataset]
    report = json.loads(project.read(f"metrics/{experiment.dataset}/{name}.report.json"))
    seed = f"seed-{report['chosen_seed']}" if "chosen_seed" in report else ""
    criterion, scale = build_loss(experiment.loss.name, {}, dataset.source.classes), dataset.source.scale
    model = build_model(experiment.model.name, experiment.model.arguments, dataset.shape, criterion.output_size)
    model.load_state_dict(torch.load(project.folder / "models" / name / seed / "model.pt", weights_only=True))
    numbers = np.random.default_rng(1).random((5, *dataset.shape)) * scale
    inputs = numbers.round().astype(np.uint8) if scale != 1 else numbers
    with torch.inference_mode():
        output = model.eval()(torch.from_numpy(inputs.astype(np.float32)) / scale)
    if not criterion.classes:
        return inputs, ([], output[:, 0].numpy())
    classes = [criterion.classes[index] for index in criterion.predict(output)]
    return inputs, (classes, criterion.probabilities(output).numpy())


def code_in_card(client: mlflow.MlflowClient, dataset: str) -> str:
    version = client.get_model_version_by_alias(dataset, "champion")
    card = Path(client.download_artifacts(version.run_id, CARD_FILE)).read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert card.endswith(f"\n{version.description}\n"), "the description is the card without its front matter"
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    return str(code)
