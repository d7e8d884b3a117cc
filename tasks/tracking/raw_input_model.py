"""What MLflow runs to predict with a registered model, each of which has a copy of this file.

It imports nothing of this project. It takes stored inputs, such as pixels from 0 to 255, and gives class names with
probabilities, or numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import mlflow.pytorch
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model


class RawInputModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow has no types
    """Predicts with a graph of torch.export, which scales the inputs itself.

    Attributes:
        graph: Maps inputs (N, *shape) to a dict of tensors: `output`, `prediction` and, with classes, `probabilities`.
        classes: Names of the classes; empty for regression.
        dtype: Data type of the inputs that the graph takes.
    """

    def load_context(self, context: Any) -> None:
        """Loads the graph; MLflow refuses one that holds a pickle."""
        folder = Path(context.artifacts["graph"]).parents[1]
        about = Model.load(folder).metadata
        self.graph = mlflow.pytorch.load_model(str(folder))
        self.classes: list[str] = about["classes"]
        self.dtype = np.dtype(about["dtype"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predicts a batch.

        Args:
            context: Not used.
            model_input: (N, *shape) with N >= 1.
            params: Not used.

        Returns:
            A row for each input: `class` and `probabilities` (name → probability), or for regression `value`.

        Raises:
            MlflowException: There is no input, or a number is NaN or infinite.
        """
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            inputs = np.array(model_input, self.dtype)
        if not len(inputs):
            raise MlflowException.invalid_parameter_value("there is no input; give one or more")
        if not np.isfinite(inputs).all():
            raise MlflowException.invalid_parameter_value("an input is NaN, infinite or too large; give finite numbers")
        with torch.inference_mode():
            found = self.graph(torch.from_numpy(inputs))
        if not self.classes:
            return pd.DataFrame({"value": found["prediction"][:, 0].tolist()})
        rows = found["probabilities"].tolist()
        return pd.DataFrame(
            {
                "class": [self.classes[index] for index in found["prediction"].tolist()],
                "probabilities": [dict(zip(self.classes, row, strict=True)) for row in rows],
            }
        )


mlflow.models.set_model(RawInputModel())
