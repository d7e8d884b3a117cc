"""Predicts with a registered model what a user gives: photos, rows of a table, or numbers (`trackway predict`).

What training knew of its inputs (classes, size, mode, columns) is stored with the model in MLflow, and the functions
that read photos and cells are those of the transform stage, so prediction cannot differ from training.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from learn import portable
from learn.data.photos.decode import PhotoError, open_photo, photo_names
from learn.errors import DataError
from learn.portable import PIXELS
from tasks.given import Cells, is_there, number_rows, table_rows
from tasks.params import Params
from tasks.tracking.loading import LoadedModel, ModelMetadata, load_model, store_of

PHOTOS = 32  # photos that are read and predicted at a time; EfficientNet-B2 needs 20 MB for each
ROWS = 256  # rows that are predicted at a time
PREDICTED = "predicted"  # a column of the CSV


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one input."""

    name: str  # of a photo its path as it was given, else `row 3`
    cells: dict[str, str]  # what was given
    classes: list[tuple[str, float]]  # all classes with their probabilities, the likeliest first; [] for a regression
    value: float | None = None  # of a regression
    photo: Path | None = None  # the file, if it is a photo


@dataclass(frozen=True)
class Predicted:
    """What a model predicts for all that was given."""

    rows: list[Prediction]
    unreadable: dict[str, str] = field(default_factory=dict)  # photo → why it cannot be read


def predict(params: Params, model: str, given: Sequence[str], there: Path = Path()) -> Predicted:
    """Predicts what is given: photos and folders of photos, tables, or numbers, whatever the model takes.

    Args:
        params: The parameters.
        model: NAME@ALIAS or NAME/VERSION.
        given: Names of files and folders, or numbers.
        there: The folder to which these names are relative.

    Raises:
        TrackingError: There is no store, or no such model, or the model cannot be loaded.
        DataError: The model does not take what is given.
    """
    loaded = load_model(store_of(params), model)
    if takes_photos(loaded.about):
        return _predict_photos(loaded, {name: there / name for name in _photo_names(given, there)})
    if columns := loaded.about.columns:
        tables = [table_rows(there / name, columns) for name in given]
    else:
        files = [str(path) if is_there(path := there / name) and path.is_file() else name for name in given]
        tables = [number_rows(files, loaded.about.shape)]
    return Predicted([row for inputs, cells in tables for row in _predict_rows(loaded, inputs, cells)])


def _photo_names(given: Sequence[str], there: Path) -> Iterator[str]:
    for name in given:
        path = there / name
        if not is_there(path):
            raise DataError(f"{name} is not there; the model takes photos, or folders of photos")
        inside = [str(Path(name, photo)) for photo in photo_names(path)] if path.is_dir() else [name]
        if not inside:
            raise DataError(f"{name} has no photo in it; the model takes photos, or folders of photos")
        yield from inside


def _predict_photos(model: LoadedModel, photos: dict[str, Path]) -> Predicted:
    from tqdm import tqdm

    found, names = Predicted([]), list(photos)

    def read(name: str) -> np.ndarray | str:
        try:
            return photo_as_input(photos[name], model.about)
        except PhotoError as error:
            return str(error)

    with ThreadPoolExecutor() as pool, tqdm(total=len(photos), disable=None, unit=" photos", leave=False) as bar:
        for start in range(0, len(names), PHOTOS):
            batch = names[start : start + PHOTOS]
            inputs = dict(zip(batch, pool.map(read, batch), strict=True))
            found.unreadable.update({name: why for name, why in inputs.items() if isinstance(why, str)})
            pixels = {name: each for name, each in inputs.items() if not isinstance(each, str)}
            answers = _answers(model, np.stack([*pixels.values()])) if pixels else ()
            for name, answer in zip(pixels, answers, strict=True):
                found.rows.append(Prediction(name, {"photo": name}, **answer, photo=photos[name]))
            bar.update(len(batch))
    return found


def _predict_rows(model: LoadedModel, inputs: np.ndarray, cells: Cells) -> Iterator[Prediction]:
    for start in range(0, len(inputs), ROWS):
        batch = inputs[start : start + ROWS]
        with np.errstate(over="ignore"):
            batch = batch.astype(model.about.dtype)
        for place, answer in enumerate(_answers(model, batch), start):
            if not np.isfinite([answer.get("value", 0.0), *(share for _, share in answer["classes"])]).all():
                lacking = [
                    name for name, cell in zip(model.about.columns, inputs[place], strict=False) if np.isnan(cell)
                ]
                why = f"it has no value for {', '.join(lacking)}" if lacking else "a number in it is too large"
                raise DataError(f"row {place + 1:,} cannot be predicted, for {why}; mend the row, or take it out")
            yield Prediction(f"row {place + 1:,}", cells[place], **answer)


def _answers(model: LoadedModel, inputs: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yields `classes`, and of a regression `value`, for each of some inputs (B, *shape)."""
    import torch

    from learn.training.build import build_loss

    with torch.inference_mode():
        output = model(torch.from_numpy(inputs), PIXELS)
    # A model that was registered by hand does not say which loss it was trained with.
    about = model.about
    loss = about.loss or ("BCEWithLogitsLoss" if output.shape[1] == 1 else "CrossEntropyLoss")
    if not about.classes:
        yield from ({"classes": [], "value": value} for value in output[:, 0].tolist())
        return
    for row in build_loss(loss, {}, about.classes).probabilities(output).tolist():
        yield {"classes": sorted(zip(about.classes, row, strict=True), key=lambda pair: -pair[1])}


def takes_photos(about: ModelMetadata) -> bool:
    """Returns whether a model takes square images, grey or in colour."""
    return portable.takes_photos(about.shape)


def photo_as_input(photo: Path, about: ModelMetadata) -> np.ndarray:
    """Reads a photo as the transform stage does, and returns it as a model takes it: (C, H, W), mostly uint8.

    Args:
        photo: The file.
        about: What is stored with the model.

    Raises:
        PhotoError: It cannot be read.
    """
    return portable.photo_as_input(photo, about.shape, about.dtype, about.scale, about.fit)


def as_csv(rows: list[Prediction]) -> bytes:
    """Returns a table with a line for each input: what was given, what is predicted, and all probabilities.

    Raises:
        DataError: A given table has such columns already.
    """
    classes = sorted({name for row in rows for name, _ in row.classes})
    added = [PREDICTED, *(f"probability of {name}" for name in classes)]
    if taken := [name for name in added if any(name in row.cells for row in rows)]:
        raise DataError(f"what is given has a column {taken[0]!r} already; rename it")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*dict.fromkeys(name for row in rows for name in row.cells), *added])
    writer.writeheader()
    for row in rows:
        found = {f"probability of {name}": f"{probability:.6g}" for name, probability in row.classes}
        writer.writerow(row.cells | {PREDICTED: row.classes[0][0] if row.classes else row.value} | found)
    return text.getvalue().encode()


def plot(rows: list[Prediction]) -> bytes:
    """Returns a PNG of the photos, each below its predicted class and the probability, or its value.

    Raises:
        DataError: They are no photos.
    """
    from learn.plots import titled_images

    photos = [row.photo for row in rows if row.photo]
    if not photos:
        raise DataError("--plot shows photos, and no photo was predicted; --out FILE.csv takes every prediction")
    titles = [f"{r.classes[0][0]} {r.classes[0][1]:.1%}" if r.classes else f"{r.value:.4g}" for r in rows]
    titles = [f"{title}\n{photo.name}" for title, photo in zip(titles, photos, strict=True)]
    buffer = io.BytesIO()
    figure = titled_images([np.asarray(open_photo(photo)) for photo in photos], titles)
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()
