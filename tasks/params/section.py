"""The base classes of the sections of params.yaml."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in params.yaml: no unknown key, no later change, no silent conversion.

    The text below a field is its description in docs/parameters.md and params.schema.json (describe.py).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Named(Section):
    """Something chosen by name, with arguments beside it: `{name: SGD, lr: 0.1}`."""

    model_config = ConfigDict(extra="allow")

    name: str
    """The class's name. All other keys of the mapping are its arguments."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All keys of the mapping except `name`, with their values."""
        return dict(self.model_extra or {})
