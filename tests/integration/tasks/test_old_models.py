"""Models that were registered before they took raw inputs: they get inputs that are scaled already, and give logits."""

from __future__ import annotations

from pathlib import Path

import mlflow
import mlflow.pytorch
import numpy as np
import pytest
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from learn.errors import TrackingError
from tasks.tracking.delivery import prepare_store
from tasks.tracking.graphs import load_graph
from tasks.tracking.loading import load_model
from tasks.tracking.names import Store


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # mlflow.pyfunc's own
def test_a_model_of_before_still_loads_and_is_given_scaled_inputs(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    prepare_store(uri)
    mlflow.set_tracking_uri(uri)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    example = np.zeros((2, 1, 8, 8), np.float32)
    schemas = (Schema([TensorSpec(np.dtype("float32"), shape)]) for shape in ((-1, 1, 8, 8), (-1, 10)))
    logged = mlflow.pytorch.log_model(
        model,
        name="model",
        signature=ModelSignature(*schemas),
        input_example=example,
        metadata={"classes": [*"0123456789"], "loss": "CrossEntropyLoss"},
        pip_requirements=["torch"],
        serialization_format="pt2",
        registered_model_name="digits",
    )
    assert logged.registered_model_version
    with pytest.raises(TrackingError, match="version 1 of digits does not take raw inputs"):
        load_graph(Store(uri), "digits/1")
    found = load_model(Store(uri), "digits/1")
    assert (found.about.shape, found.about.scale, len(found.about.classes)) == ((1, 8, 8), None, 10)
    stored = torch.randint(0, 17, (3, 1, 8, 8), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(found(stored, 16), model(stored / 16))
