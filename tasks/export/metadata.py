"""What an exported file says of itself, so that it can be used where neither MLflow nor this project is."""

from __future__ import annotations

import json
from importlib.metadata import version

from tasks.tracking.graphs import RegisteredGraph
from tasks.tracking.tags import EXPERIMENT, STATE_DICT, TEST_DATA

FILE = "metadata.json"  # its name inside files that hold files


def metadata(graph: RegisteredGraph) -> dict[str, str]:
    """Returns names and values; those that are no text are JSON, such as `classes`."""
    about = graph.about
    return {
        "model": graph.name,
        "version": graph.version,
        "experiment": graph.tags.get(EXPERIMENT, ""),
        "architecture": json.dumps(graph.architecture),
        "state_dict_sha256": graph.tags.get(STATE_DICT, ""),
        "test_data_md5": graph.tags.get(TEST_DATA, ""),
        "classes": json.dumps(about.classes),
        "input_shape": json.dumps(about.shape),
        "input_dtype": about.dtype,
        "input_scale": json.dumps(about.scale),  # what the graph divides integers by
        "photo_fit": json.dumps(about.fit and about.fit._asdict()),
        "columns": json.dumps(about.columns),
        "loss": about.loss,
        "trackway": version("trackway"),
    }


def as_json(graph: RegisteredGraph) -> str:
    """Returns the metadata as one text."""
    return json.dumps(metadata(graph), indent=1) + "\n"
