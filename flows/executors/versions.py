"""Compares what decides results on a node with what the flow has: Python, and some libraries."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

# Libraries that compute results, read data, or write what dvc.lock and MLflow hold.
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "pyarrow", "dvc", "mlflow")
MISSING = "none"  # stands for the version of a library that is not installed


@cache
def versions() -> dict[str, str]:
    """Returns the versions of Python and of LIBRARIES in this process, without torch's kind of build such as `+cpu`."""
    return {"Python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return MISSING


def what_differs(flow: dict[str, str], node: dict[str, str]) -> str:
    """Returns the node's versions that are not those of the flow, such as `torch 2.11.0 instead of 2.12.1`.

    Args:
        flow: Name → version, as `versions` returns them where the flow runs.
        node: The same on the node.

    Returns:
        The differences in one line; "" if there are none.
    """
    return ", ".join(
        f"{name} {node.get(name, MISSING)} instead of {wanted}"
        for name, wanted in flow.items()
        if node.get(name, MISSING) != wanted
    )
