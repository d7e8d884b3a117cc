"""Defaults of `champion` of a dataset in params.yaml, in a dependency of the register stage."""

from typing import Literal

Require = Literal["better", "separable", "any"]

REQUIRE: Require = "separable"
LEVEL = 0.05
MARGIN = 0.0
MAX_PARAMETERS = None
MAX_LATENCY_MS = None
