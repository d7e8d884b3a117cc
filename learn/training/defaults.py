"""Defaults of an experiment's settings in params.yaml.

They are here, in a dependency of the train stage, because changing one changes what is trained.
"""

from typing import Literal

MemoryFormat = Literal["contiguous", "channels_last"]
NoDecay = Literal["norms_and_biases"]
Interval = Literal["epoch", "step"]
Precision = Literal["fp32", "bf16", "fp16"]

SEED = SEEDS = None  # one of the two is given
NO_DECAY: NoDecay | None = None
GROUPS = None
SCHEDULER = None
INTERVAL: Interval = "epoch"
RESEED = True  # seed again before the first epoch; False: weights and batches come from one random stream
MEMORY_FORMAT: MemoryFormat = "contiguous"
AUGMENTATION = None
CLIP_GRAD_NORM = None
EARLY_STOPPING = None
FRACTION = 1.0  # all training samples
PRECISION: Precision = "fp32"
COMPILE = False
DEVICES: int | Literal["auto"] = 1
