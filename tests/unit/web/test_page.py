"""What the page is told of a model."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from tasks.tracking.loading import ModelMetadata
from tasks.tracking.serving import ServedModel
from web.page import described


def test_samples_of_a_table_are_told_as_they_are() -> None:
    """Also small numbers, and missing values as null."""
    about = ModelMetadata("MSELoss", (), (2,), columns={"size": "number", "zone": ("north", "south")})
    samples = pd.DataFrame({"size": [1.23e-13, np.nan], "zone": ["north", None]})
    told = described("a@champion", ServedModel("a", "1", about, "", samples, None))
    assert json.loads(json.dumps(told["examples"])) == [
        {"size": 1.23e-13, "zone": "north"},
        {"size": None, "zone": None},
    ]
