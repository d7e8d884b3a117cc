"""The page of a served model: one HTML file with its script and styles, and what it asks for."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path
from typing import Any

from learn.portable import input_as_photo
from tasks.predict import takes_photos
from tasks.tracking.serving import ServedModel

FILE = Path(__file__).with_name("page.html")
DRAWN = 64  # largest width of grey images that are drawn


def page() -> tuple[bytes, str]:
    """Returns the page, and the content security policy that allows its own script and styles, and no others."""
    text = FILE.read_text(encoding="utf-8")
    hashes = [_sha256(re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[0]) for tag in ("script", "style")]
    policy = (
        "default-src 'none'; script-src '{}'; style-src '{}'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy.format(*hashes)


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def described(name: str, model: ServedModel) -> dict[str, Any]:
    """Returns what the page needs to know of a version.

    Args:
        name: The model as the user named it, such as digits@champion.
        model: The version.
    """
    photos, shape, columns = takes_photos(model.about), model.about.shape, model.about.columns
    if columns:
        examples = model.examples.astype(object).where(model.examples.notna(), None).to_dict("records")
    else:
        examples = len(model.examples) if photos else model.examples.tolist()
    return {
        "name": name,
        "version": model.version,
        "classes": list(model.about.classes),
        "shape": list(shape),
        "takes": "photos" if photos else "columns" if columns else "numbers",
        "columns": [{"name": name, "categories": None if kind == "number" else kind} for name, kind in columns.items()],
        "is_drawn": photos and shape[0] == 1 and shape[1] <= DRAWN,
        "examples": examples,
        "card": as_html(model.card),
    }


def as_html(markdown: str) -> str:
    """Returns Markdown as HTML; tags in it are shown as text."""
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown))


def as_png(model: ServedModel, index: int) -> bytes:
    """Returns one of the model's examples as a picture, which gives the same input if it is sent back."""
    content = io.BytesIO()
    input_as_photo(model.examples[index], model.about.scale, model.about.fit).save(content, "png")
    return content.getvalue()
