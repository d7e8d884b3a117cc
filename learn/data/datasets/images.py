"""A user's own photos."""

from __future__ import annotations

from dataclasses import dataclass

from learn.data.photos.decode import unwritable
from learn.data.source import Photos


@dataclass(frozen=True)
class Images(Photos):
    """A user's own photos, as `trackway add-images` found them; the section holds their version."""

    path: str  # where the photos came from: a folder, an archive, or a table of files and labels
    sha256: str  # what `tree_digest` returns for all photos
    class_names: tuple[str, ...]
    train: int  # number of photos outside the official test part
    test: int  # number of photos in the official test part; 0 if there is none

    def __post_init__(self) -> None:
        if len(self.class_names) < 2 or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"class_names is {list(self.class_names)}; it must be two or more different names")
        for name in self.class_names:
            if not name or name.startswith(".") or "/" in name or "\\" in name or unwritable(name):
                raise ValueError(
                    f"class_names has {name!r}; each must be the name of a folder, without control characters"
                )
        if self.train < 1 or self.test < 0:
            raise ValueError(f"train is {self.train} and test {self.test}; it must be train >= 1 and test >= 0")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the photos' folders, or the labels in the table."""
        return self.class_names

    @property
    def tree_sha256(self) -> str:
        """The sha256 that `trackway add-images` wrote into params.yaml."""
        return self.sha256

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of photos that `trackway add-images` counted."""
        return self.train, self.test
