"""Logs a model to a run as MLflow keeps it: a traced graph, the code that predicts with it, a signature, an example."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.tracking.liveness import this_process
from tasks.tracking.tags import PROCESS, SOURCE_NAME

if TYPE_CHECKING:
    from mlflow.entities import Run


def log_model(run: Run, model: Any, about: dict[str, Any], example: Any) -> None:
    """Logs the model as a traced graph (pt2, no pickle) with signature, input example and the versions it needs.

    `mlflow.pyfunc.load_model` gives class names and probabilities, by the code in raw_input_model.py;
    `mlflow.pytorch.load_model` gives the graph.

    Args:
        run: The run.
        model: A RawInputs on the CPU.
        about: What a prediction must know beside it, such as `classes` and, of a table, `columns`.
        example: Inputs (B, *shape) with B >= 2, a numpy array.
    """
    import mlflow
    import mlflow.pyfunc
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature

    mlflow.set_experiment(experiment_id=run.info.experiment_id)  # otherwise the model goes to the experiment `Default`
    shown = _as_given(example, about)
    with _requirements_not_compared(), tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "model.pt2")
        batch = torch.from_numpy(example)
        torch.export.save(torch.export.export(model, (batch,), dynamic_shapes=[{0: torch.export.Dim.AUTO}]), graph)
        Model.log(
            artifact_path=None,
            name="model",
            flavor=_Flavors,
            run_id=run.info.run_id,
            tags={SOURCE_NAME: "tasks/evaluate.py", PROCESS: this_process()},  # the first is by default a full path
            python_model=str(Path(__file__).with_name("raw_input_model.py")),
            artifacts={"graph": str(graph)},
            signature=ModelSignature(_inputs_schema(shown), _outputs_schema(about["classes"])),
            input_example=shown,
            metadata=about | {"dtype": str(example.dtype), "shape": list(example.shape[1:])},
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
            validate_serving_input=False,  # a failure would only be a warning; the tests load every model and predict
        )


def _as_given(example: Any, about: dict[str, Any]) -> Any:
    """Returns example inputs as a user gives them: a table as a DataFrame, numbers as NumPy's users have them.

    Args:
        example: Inputs (B, *shape) as the graph takes them.
        about: What `log_model` takes.
    """
    import numpy as np
    import pandas as pd

    if columns := about.get("columns"):
        return pd.DataFrame(
            {
                column["name"]: [float(str(value)) for value in values]  # as the table has it: 54.3, not 54.29999924
                if (categories := column["categories"]) is None
                else [None if np.isnan(value) else categories[int(value)] for value in values]
                for column, values in zip(columns, example.T, strict=True)
            }
        )
    return example if np.issubdtype(example.dtype, np.integer) else example.astype(np.float64)


class _Flavors:
    """Saves a model with two of MLflow's flavors: python_function, and pytorch for the same graph."""

    @staticmethod
    def save_model(path: str, mlflow_model: Any, *, validate_serving_input: bool, **arguments: Any) -> None:
        """Saves the model into a folder; `Model.log` calls this with the arguments that it was given.

        Args:
            path: The folder.
            mlflow_model: MLflow's record of the model.
            validate_serving_input: For `Model.log` itself.
            arguments: What `mlflow.pyfunc.save_model` takes.
        """
        import mlflow.pyfunc
        import torch
        from mlflow.models.model import MLMODEL_FILE_NAME

        mlflow_model.add_flavor(
            "pytorch", model_data="artifacts", pytorch_version=str(torch.__version__), code=None
        )  # what mlflow.pytorch.save_model says of a graph
        mlflow.pyfunc.save_model(path, mlflow_model=mlflow_model, **arguments)
        python_function = mlflow_model.flavors["python_function"]  # names files with this machine's paths
        python_function["model_code_path"] = Path(python_function["model_code_path"]).name
        for artifact in python_function["artifacts"].values():
            artifact["uri"] = artifact["path"]
        mlflow_model.save(str(Path(path, MLMODEL_FILE_NAME)))


def _inputs_schema(example: Any) -> Any:
    """Returns the schema of inputs like these: a table's columns, or (N, *shape) for any N."""
    import numpy as np
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    if isinstance(example, np.ndarray):
        return Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))])
    kinds = {name: DataType.double if values.dtype == float else DataType.string for name, values in example.items()}
    return Schema([ColSpec(kind, name) for name, kind in kinds.items()])


def _outputs_schema(classes: list[str]) -> Any:
    """Returns the schema of what raw_input_model.py predicts."""
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Object, Property

    if not classes:
        return Schema([ColSpec(DataType.double, "value")])
    probabilities = Object([Property(name, DataType.double) for name in classes])
    return Schema([ColSpec(DataType.string, "class"), ColSpec(probabilities, "probabilities")])


@contextmanager
def _requirements_not_compared() -> Iterator[None]:
    """Keeps MLflow from comparing a model's requirements with what is installed, which is where they come from.

    For that it reads the records of all installed packages, which takes half a second.
    """
    from mlflow.utils import environment

    compare = environment.warn_dependency_requirement_mismatches
    environment.warn_dependency_requirement_mismatches = lambda requirements: None
    try:
        yield
    finally:
        environment.warn_dependency_requirement_mismatches = compare
