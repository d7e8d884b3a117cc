"""Models by their name in params.yaml: `model: {name: tiny_vgg, hidden_units: 10}`.

A model is a `torch.nn.Module` whose constructor takes `input_shape` (the shape of one input: (features,) or (channels,
height, width)) and `output_size` (number of logits), both known from the dataset and the loss, and then the arguments
from params.yaml. To add one, write `learn/models/NAME.py` and its entry in MODELS. Each model has its own file, because
a training stage depends on the file of its model only: a new model makes no finished run stale.
"""

from __future__ import annotations

from torch import nn

from learn.models.cnn import CNN
from learn.models.line import Line
from learn.models.mlp import MLP
from learn.models.timm import Timm
from learn.models.tiny_vgg import TinyVGG
from learn.models.torchvision import Torchvision
from learn.models.vit import ViT

MODELS: dict[str, type[nn.Module]] = {
    "cnn": CNN,
    "line": Line,
    "mlp": MLP,
    "timm": Timm,
    "tiny_vgg": TinyVGG,
    "torchvision": Torchvision,
    "vit": ViT,
}
