"""The README and the pages in docs/, and the blocks of code in them."""

from __future__ import annotations

import re

from tests.support.project import ROOT

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}


def blocks(language: str, *pages: str) -> list[str]:
    """The blocks of code in a language, in some pages; by default in all."""
    texts = [PAGES[page] for page in pages or PAGES]
    return [block for text in texts for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.M)]
