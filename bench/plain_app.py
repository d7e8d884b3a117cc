"""The FastAPI app that one would write first for a registered model; bench/serving.py measures it."""

from __future__ import annotations

import os
from typing import Any

import mlflow.pyfunc
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

model = mlflow.pyfunc.load_model(os.environ["MODEL"])
app = FastAPI()


class Inputs(BaseModel):
    inputs: list[Any]


@app.post("/invocations")
def invocations(asked: Inputs) -> dict[str, Any]:
    found = model.predict(np.array(asked.inputs, model.input_example.dtype))
    return {"predictions": found.to_dict("records")}
