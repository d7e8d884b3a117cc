"""Names nested settings as MLflow's parameters and a table's columns do."""

from __future__ import annotations

from typing import Any


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turns {"optimizer": {"lr": 0.1}} into {"optimizer.lr": 0.1}; drops None, and keeps lists as they are.

    Args:
        settings: Nested mappings.
        prefix: Begins each name.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = value
    return flat
