"""Makes the figures of a run, for MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from learn.training.history import read_history
from tasks.assemble import assemble
from tasks.params import Params
from tasks.workspace.paths import history_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.evaluate import Evaluation

GRID = 24  # number of images in the prediction grid
AUGMENTED = 6  # number of images in the augmentation grid, and of augmentations of each


def figures_of(name: str, found: Evaluation) -> dict[str, Figure]:
    """Returns the figures of a run by name; the model must be on the CPU."""
    import torch

    from learn import plots
    from learn.evaluation.metrics import confusion

    test, model, predictions = found.test, found.model, found.chosen_predictions
    histories = [read_history(history_file(name, seed)) for seed in found.by_seed]
    figures = {"loss_curves": plots.loss_curves(read_history(history_file(name)), histories)}
    targets, classes = test.targets.cpu().numpy(), found.criterion.classes
    if not classes:
        return figures | {"predictions": plots.regression_fit(targets, predictions)}
    figures["confusion_matrix"] = plots.confusion_matrix(confusion(targets, predictions, classes), classes)
    if test.inputs.shape[1:] == (2,):

        def predict(points: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return found.criterion.predict(model(torch.from_numpy(points))).numpy()

        points = test.batch(slice(None))[0].cpu().numpy()
        figures["decision_boundary"] = plots.decision_boundary(predict, points, targets, classes)
    if test.inputs.ndim == 4:
        images = test.batch(slice(0, GRID))[0].cpu().contiguous().numpy()
        figures["prediction_grid"] = plots.prediction_grid(images, targets[:GRID], predictions[:GRID], classes)
    return figures


def augmented(params: Params, name: str) -> Figure:
    """Plots what augmentation does: each row shows an image as it is, then as training may see it."""
    import torch

    from learn import plots

    assembled = assemble(params.model_copy(update={"device": "cpu"}), name, "train")
    train, augment = assembled.splits["train"], assembled.augmentation()
    assert augment
    chosen = torch.linspace(0, len(train) - 1, AUGMENTED).long()  # evenly spread, since images are sorted by class
    ((inputs, targets),) = train.batches([chosen])
    columns = [train.prepare(inputs), *(augment(inputs, targets, seed)[0] for seed in range(AUGMENTED))]
    return plots.image_rows(torch.stack(columns, dim=1).numpy())
