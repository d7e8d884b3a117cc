"""Reads params.yaml as frozen objects, or reports every mistake in it.

    params = load_params(Path("params.yaml"))
    params.experiments["digits-mlp"].optimizer.arguments["lr"]

Each section has its own file; load.py reads the whole file, preflight.py checks what only torch can tell. Only this
package uses pydantic.
"""

from tasks.params.dataset import Champion, Dataset, Split, Transform
from tasks.params.experiment import PLATEAU, EarlyStopping, Experiment
from tasks.params.load import PARAMS_FILE, STORES, Params, load_params, parse_params, read_yaml
from tasks.params.section import Section

__all__ = [
    "PARAMS_FILE",
    "PLATEAU",
    "STORES",
    "Champion",
    "Dataset",
    "EarlyStopping",
    "Experiment",
    "Params",
    "Section",
    "Split",
    "Transform",
    "load_params",
    "parse_params",
    "read_yaml",
]
