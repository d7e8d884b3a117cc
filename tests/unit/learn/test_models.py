from __future__ import annotations

import torch
from torch import nn

from learn.models import MODELS
from learn.training.build import build_model


def test_each_model_stands_in_the_file_of_its_name() -> None:
    """dvc.yaml makes learn/models/NAME.py an input of every training with `model: {name: NAME}`."""
    for name, model in MODELS.items():
        assert model.__module__ == f"learn.models.{name}"
        own = [cls for cls in vars(__import__(model.__module__, fromlist=["*"])).values() if _is_model_of(cls, model)]
        assert own == [model], f"learn/models/{name}.py must hold one model"


def _is_model_of(cls: object, model: type[nn.Module]) -> bool:
    return isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == model.__module__


def test_tiny_vgg_is_the_course_s_model() -> None:
    """Chapter 4: 64×64 photos, 10 units, three classes."""
    model = build_model("tiny_vgg", {"hidden_units": 10}, (3, 64, 64), 3)
    assert sum(p.numel() for p in model.parameters()) == 10 * (3 * 9 + 1) + 3 * 10 * (10 * 9 + 1) + 3 * (10 * 256 + 1)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_an_mlp_starts_from_the_weights_of_the_same_layers_by_hand() -> None:
    torch.manual_seed(42)
    model = build_model("mlp", {"hidden_units": [10], "activation": "ReLU"}, (1, 28, 28), 10)
    torch.manual_seed(42)
    by_hand = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.ReLU(), nn.Linear(10, 10))
    inputs = torch.rand(5, 1, 28, 28)
    assert torch.equal(model(inputs), by_hand(inputs))


def test_the_line_starts_where_the_course_s_does() -> None:
    torch.manual_seed(42)
    model = build_model("line", {}, (1,), 1)
    assert [round(p.item(), 4) for p in model.parameters()] == [0.3367, 0.1288]


def test_an_mlp_s_outputs_begin_near_the_targets() -> None:
    arguments = {"hidden_units": [4], "activation": "ReLU"}
    torch.manual_seed(0)
    plain = build_model("mlp", arguments, (3,), 1)
    torch.manual_seed(0)
    scaled = build_model("mlp", arguments | {"output_mean": 200_000.0, "output_scale": 80_000.0}, (3,), 1)
    inputs = torch.rand(5, 3)
    assert torch.equal(scaled(inputs), 200_000 + 80_000 * plain(inputs))
    assert scaled.state_dict().keys() == plain.state_dict().keys()
