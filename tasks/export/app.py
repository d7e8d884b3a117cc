"""The page of a registered model as a Hugging Face Space: `python app.py` starts it.

It needs what requirements.txt lists, and the files that lie beside its copy in a Space (see space.py).
"""

from __future__ import annotations

import html
import json
import time
from pathlib import Path
from typing import Any

import gradio as gr

from learn.portable import About, InputError, PortableModel, takes_photos

FOLDER = Path(__file__).parent
CLASSES = 5  # largest number of classes that are shown
HOUR = 3600  # how many seconds Gradio keeps the photos that it was sent, and how often it looks


def page(folder: Path) -> gr.Interface:
    """Returns the page of the model in a folder: input, answer, the seconds that it took, examples, the model card."""
    model = PortableModel(folder / "model.pt2")
    about = model.about

    def predict(*given: Any) -> tuple[dict[str, float] | float, float]:
        """Returns class → probability, or for a regression the value, and how many seconds it took."""
        if given == (None,):
            raise gr.Error("there is nothing to predict yet", print_exception=False)
        start = time.perf_counter()
        try:
            found = model.predict(
                model.read(dict(zip(about.columns, given, strict=True)) if about.columns else given[0])
            )
        except InputError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error
        return found, time.perf_counter() - start

    return gr.Interface(
        predict,
        _fields(about),
        [
            gr.Label(num_top_classes=CLASSES, label="Classes") if about.classes else gr.Number(label="Value"),
            gr.Number(label="Seconds", precision=4),
        ],
        examples=[_example(about, file) for file in sorted((folder / "examples").iterdir())],
        cache_examples=False,
        flagging_mode="never",
        analytics_enabled=False,
        delete_cache=(HOUR, HOUR),
        title=f"{about.model}, version {about.version}",
        article=(folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2],
    )


def _fields(about: About) -> list[Any]:
    """Returns Gradio's components for an input: a photo, a text with numbers, or one for each column of a table."""
    if takes_photos(about.shape):
        return [_photo()]
    if not about.columns:
        return [gr.Textbox(label="Numbers")]
    return [
        gr.Number(label=name) if kind == "number" else gr.Dropdown(kind, label=name, value=None)
        for name, kind in about.columns.items()
    ]


def _example(about: About, file: Path) -> list[Any]:
    """Returns what an example puts into the fields."""
    if takes_photos(about.shape):
        return [str(file)]
    text = file.read_text(encoding="utf-8")
    return list(json.loads(text).values()) if about.columns else [text]


def _photo() -> gr.Image:
    """Returns an input for a photo, which hands over the path of the file as it was sent.

    Gradio would decode it by its own rules first, and could not say what is wrong with it.
    """
    photo = gr.Image(type="filepath", image_mode=None, label="Photo")
    photo.preprocess = lambda sent: sent.path if sent else None
    return photo


if __name__ == "__main__":
    page(FOLDER).launch()
