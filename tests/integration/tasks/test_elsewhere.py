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

from learn.training.build import build_model
from tasks.tracking.tags import CARD_FILE, EXPERIMENT
from tests.support.project import Project, shipped

PARAMS = shipped()
# Python without the folder of its start, its variables and its .pth files, one of which names this project.
PYTHON = (sys.executable, "-I", "-S", "-W", "ignore", "-c")
ALONE = f"""
import importlib.util, json, os, sys
sys.path.append({sysconfig.get_path("purelib")!r})
assert not any(importlib.util.find_spec(name) for name in ("learn", "tasks", "flows"))
"""
USE = f"""{ALONE}
import contextlib, io, mlflow, numpy as np
store, project, codes = sys.argv[1:]
mlflow.set_tracking_uri(store)
for file in os.listdir("."):
    np.save(file, mlflow.pyfunc.load_model("models:/" + file.removesuffix(".npy")).predict(np.load(file)))
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
    command = (*PYTHON, USE, by_flow.tracking_uri, str(by_flow.folder), json.dumps(codes))
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    for uri, predicted in expected.items():
        there = np.load(tmp_path / f"{uri}.npy")
        np.testing.assert_allclose(there, predicted, rtol=1e-5, atol=1e-6, err_msg=uri)
    for name, shown in json.loads(done.stdout.splitlines()[-1]).items():
        classes, words = PARAMS.datasets[name].source.classes, re.findall(r"'([^']*)'", shown)
        assert len(words) == 2 if classes else re.fullmatch(r"\[\[.*\]\n \[.*\]\]\n", shown), shown
        assert set(words) <= set(classes)


def experiment_id(client: mlflow.MlflowClient, dataset: str) -> str:
    found = client.get_experiment_by_name(dataset)
    assert found
    return found.experiment_id


def predicted_here(project: Project, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and what the model with the experiment's state_dict makes of them."""
    experiment = PARAMS.experiments[name]
    dataset = PARAMS.datasets[experiment.dataset]
    report = json.loads(project.read(f"metrics/{experiment.dataset}/{name}.report.json"))
    seed = f"seed-{report['chosen_seed']}" if "chosen_seed" in report else ""
    state_dict = torch.load(project.folder / "models" / name / seed / "model.pt", weights_only=True)
    size = len([*state_dict.values()][-1])  # of the last layer's bias
    model = build_model(experiment.model.name, experiment.model.arguments, dataset.shape, size)
    model.load_state_dict(state_dict)
    inputs = torch.rand(5, *dataset.shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return inputs.numpy(), model.eval()(inputs).numpy()


def code_in_card(client: mlflow.MlflowClient, dataset: str) -> str:
    version = client.get_model_version_by_alias(dataset, "champion")
    card = Path(client.download_artifacts(version.run_id, CARD_FILE)).read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert card.endswith(f"\n{version.description}\n"), "the description is the card without its front matter"
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    return str(code)
