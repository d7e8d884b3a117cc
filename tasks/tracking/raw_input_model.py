"""What MLflow runs to predict with a registered model, each of which has a copy of this file.

It imports nothing of this project. It takes inputs as they are, such as pixels from 0 to 255 or a table's own columns,
and gives class names with probabilities, or numbers.
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
        columns: A table's columns: `name`, `categories` (None for numbers), `may_lack` (a value); [] if it is no table.
        dtype: Data type of the inputs that the graph takes.
    """

    def load_context(self, context: Any) -> None:
        """Loads the graph; MLflow refuses one that holds a pickle."""
        folder = Path(context.artifacts["graph"]).parents[1]
        about = Model.load(folder).metadata
        self.graph = mlflow.pytorch.load_model(str(folder))
        self.classes: list[str] = about["classes"]
        self.columns: list[dict[str, Any]] = about.get("columns", [])
        self.dtype = np.dtype(about["dtype"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predicts a batch.

        Args:
            context: Not used.
            model_input: (N, *shape) with N >= 1, or of a table a DataFrame. (MLflow warns of a union here.)
            params: Not used.

        Returns:
            A row for each input: `class` and `probabilities` (name → probability), or for regression `value`.

        Raises:
            MlflowException: There is no input, a number is infinite or must not be missing, or a category is unknown.
        """
        if not len(model_input):
            raise MlflowException.invalid_parameter_value("there is no input; give one or more")
        inputs = self._inputs(model_input)
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

    def _inputs(self, given: Any) -> np.ndarray:
        """Returns inputs (N, *shape) as the graph takes them."""
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            if self.columns:
                return np.stack([self._values(column, given[column["name"]]) for column in self.columns], axis=1)
            inputs = np.array(given, self.dtype)
        if not np.isfinite(inputs).all():
            raise MlflowException.invalid_parameter_value("an input is NaN, infinite or too large; give finite numbers")
        return inputs

    def _values(self, column: dict[str, Any], cells: pd.Series) -> np.ndarray:
        """Returns a column (N,) as the graph takes it: numbers, or indices of categories; NaN if a value is missing."""
        name, categories = column["name"], column["categories"]
        if categories is None:
            values = cells.to_numpy(self.dtype)
            if np.isinf(values).any() or (not column["may_lack"] and np.isnan(values).any()):
                kind = "finite numbers" if not column["may_lack"] else "finite numbers, or none"
                raise MlflowException.invalid_parameter_value(
                    f"a number of the column {name!r} is missing, infinite or too large; give {kind}"
                )
            return values
        places = {category: place for place, category in enumerate(categories)}
        known = cells.isna() | (cells == "") | cells.isin(places)
        if not known.all():
            raise MlflowException.invalid_parameter_value(
                f"{str(cells[~known].iloc[0])[:80]!r} is no category of the column {name!r}; it has {categories}"
            )
        return cells.map(places).to_numpy(self.dtype)


mlflow.models.set_model(RawInputModel())
