"""Draws a sweep: its history, which key matters, and all trials side by side. Optuna draws them with matplotlib."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna import Study


def figures(study: Study, metric: str) -> dict[str, Figure]:
    """Returns the figures of a study by name.

    Args:
        study: The study; each figure needs two trials or more that are complete, with different values.
        metric: Name of what decides, for the axes.
    """
    import matplotlib

    matplotlib.use("agg")
    from optuna.exceptions import ExperimentalWarning
    from optuna.trial import TrialState
    from optuna.visualization import matplotlib as draw

    values = {trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    if len(values) < 2:
        return {}
    kinds: dict[str, Callable[..., Axes]] = {
        "optimization_history": draw.plot_optimization_history,
        "parameter_importance": draw.plot_param_importances,
        "parallel_coordinates": draw.plot_parallel_coordinate,
    }
    found = {}
    for name, plot in kinds.items():
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning), matplotlib.rc_context():
            figure = plot(study, target_name=metric).get_figure(root=True)
            assert figure
            figure.set_size_inches(9, 5)
            figure.set_layout_engine("tight")
            found[name] = figure
    return found
