"""The page of a registered model as a Hugging Face Space: `python app.py` starts it.

It needs what requirements.txt lists, and the files that lie beside its copy in a Space (see space.py).
"""

from __future__ import annotations

import html
import time
from pathlib import Path

import gradio as gr

from learn.portable import InputError, PortableModel, takes_photos

FOLDER = Path(__file__).parent
CLASSES = 5  # largest number of classes that are shown
HOUR = 3600  # how many seconds Gradio keeps the photos that it was sent, and how often it looks


def page(folder: Path) -> gr.Interface:
    """Returns the page of the model in a folder: input, answer, the seconds that it took, examples, the model card."""
    model = PortableModel(folder / "model.pt2")
    about = model.about
    photos = takes_photos(about.shape)

    def predict(given: str | None) -> tuple[dict[str, float] | float, float]:
        """Returns class → probability, or for a regression the value, and how many seconds it took."""
        if not given:
            raise gr.Error("there is nothing to predict yet", print_exception=False)
        start = time.perf_counter()
        try:
            found = model.predict(model.read(given))
        except InputError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error
        return found, time.perf_counter() - start

    files = sorted((folder / "examples").iterdir())
    return gr.Interface(
        predict,
        _photo() if photos else gr.Textbox(label="Numbers"),
        [
            gr.Label(num_top_classes=CLASSES, label="Classes") if about.classes else gr.Number(label="Value"),
            gr.Number(label="Seconds", precision=4),
        ],
        examples=[[str(file) if photos else file.read_text(encoding="utf-8")] for file in files],
        cache_examples=False,
        flagging_mode="never",
        analytics_enabled=False,
        delete_cache=(HOUR, HOUR),
        title=f"{about.model}, version {about.version}",
        article=(folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2],
    )


def _photo() -> gr.Image:
    """Returns an input for a photo, which hands over the path of the file as it was sent.

    Gradio would decode it by its own rules first, and could not say what is wrong with it.
    """
    photo = gr.Image(type="filepath", image_mode=None, label="Photo")
    photo.preprocess = lambda sent: sent.path if sent else None
    return photo


if __name__ == "__main__":
    page(FOLDER).launch()
