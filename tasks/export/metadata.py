"""What an exported file says of itself, so that it can be used where neither MLflow nor this project is."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from tasks.tracking.graphs import RegisteredGraph
from tasks.tracking.tags import EXPERIMENT, STATE_DICT, TEST_DATA

FILE = "metadata.json"  # its name inside files that hold files


def metadata(graph: RegisteredGraph) -> dict[str, str]:
    """Returns names and values; what is no text, such as `classes`, is JSON."""
    about = graph.about
    return {
        "model": graph.name,
        "version": graph.version,
        "experiment": graph.tags.get(EXPERIMENT, ""),
        "architecture": _as_json(graph.architecture),
        "state_dict_sha256": graph.tags.get(STATE_DICT, ""),
        "test_data_md5": graph.tags.get(TEST_DATA, ""),
        "classes": _as_json(about.classes),
        "input_shape": _as_json(about.shape),
        "input_dtype": about.dtype,
        "input_scale": _as_json(about.scale),  # what the graph divides integers by
        "photo_fit": _as_json(about.fit and about.fit._asdict()),
        "columns": _as_json(about.columns),
        "loss": about.loss,
        "trackway": version("trackway"),
    }


def as_text(graph: RegisteredGraph) -> str:
    """Returns the content of FILE."""
    return _as_json(metadata(graph))


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
