"""Reads params.yaml as frozen objects, or reports every mistake in it.

    params = load_params(Path("params.yaml"))
    params.experiments["digits-mlp"].optimizer.arguments["lr"]

Each section has its own file; load.py reads the whole file, preflight.py checks what only torch can tell. Only this
package uses pydantic.
"""

from tasks.params.dataset import ChampionConfig, DatasetConfig, SplitConfig, TransformConfig
from tasks.params.experiment import PLATEAU, EarlyStoppingConfig, ExperimentConfig
from tasks.params.load import PARAMS_FILE, STORES, Params, load_params, parse_params, read_yaml
from tasks.params.section import Section

__all__ = [
    "PARAMS_FILE",
    "PLATEAU",
    "STORES",
    "ChampionConfig",
    "DatasetConfig",
    "EarlyStoppingConfig",
    "ExperimentConfig",
    "Params",
    "Section",
    "SplitConfig",
    "TransformConfig",
    "load_params",
    "parse_params",
    "read_yaml",
]
