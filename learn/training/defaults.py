"""What an experiment gets that does not say otherwise in params.yaml.

They stand here, in a dependency of the train stage, for a change of one changes what is trained.
"""

from typing import Literal

MemoryFormat = Literal["contiguous", "channels_last"]

SCHEDULER = None
RESEED = True  # again before the first epoch; False: model and batches come from one stream
MEMORY_FORMAT: MemoryFormat = "contiguous"
AUGMENTATION = None
CLIP_GRAD_NORM = None
EARLY_STOPPING = None
