"""The version of a registered model that is served now; a new champion takes its place without a restart."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace

from learn.errors import TrackingError
from tasks.tracking.names import Store
from tasks.tracking.serving import ServedModel, WrapGraph, load_served, served_version

SECONDS = 1.0  # between two looks at the store


class Current:
    """Holds the served version. A request reads `model` once, so that all of its answer is from one version.

    Args:
        store: The store.
        name: NAME@ALIAS or NAME/VERSION.
        wrap: What the model's graph is wrapped in, such as a Batcher.

    Raises:
        TrackingError: There is no such model, it cannot be loaded, or it does not take raw inputs.
    """

    def __init__(self, store: Store, name: str, wrap: WrapGraph) -> None:
        self._store, self.name, self._wrap = store, name, wrap
        self.model: ServedModel = load_served(store, name, wrap)
        self._refused = ""  # the number of a version that could not be loaded
        self._ended = threading.Event()

    def start(self) -> None:
        """Looks for a new version every second, in a thread, until `stop` is called."""
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()

    def look(self) -> None:
        """Takes another version up if the alias has moved to one that can be loaded; raises TrackingError if not."""
        number, card = served_version(self._store, self.name)
        if number == self.model.version and card != self.model.card:  # written after the alias moved
            self.model = replace(self.model, card=card)
        if number in (self.model.version, self._refused):
            return
        try:
            self.model = load_served(self._store, self.name, self._wrap)
        except TrackingError:
            self._refused = number
            raise
        self._refused = ""
        gc.collect()  # the old version's graph, whose parts name each other
        print(f"{self.name} is version {self.model.version} now", flush=True)

    def _watch(self) -> None:
        told = ""
        while not self._ended.wait(SECONDS):
            try:
                self.look()
                told = ""
            except TrackingError as error:
                if str(error) != told:
                    print(f"version {self.model.version} is still served: {error}", flush=True)
                told = str(error)
