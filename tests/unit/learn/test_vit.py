"""The Vision Transformer against its paper and against torchvision's."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer, vit_b_16

from learn.training.build import BuildError, build_model

BASE = {"patch_size": 16, "embedding_size": 768, "heads": 12, "layers": 12, "mlp_size": 3072, "dropout": 0.1}
SMALL = {"patch_size": 4, "embedding_size": 32, "heads": 4, "layers": 3, "mlp_size": 48}
# Ours → torchvision's names
NAMES = [
    (r"embedding\.class_token", "class_token"),
    (r"embedding\.position_embedding", "encoder.pos_embedding"),
    (r"embedding\.projection\.(.*)", r"conv_proj.\1"),
    (r"encoder\.(\d+)\.attention\.norm\.(.*)", r"encoder.layers.encoder_layer_\1.ln_1.\2"),
    (r"encoder\.(\d+)\.attention\.qkv\.(.*)", r"encoder.layers.encoder_layer_\1.self_attention.in_proj_\2"),
    (r"encoder\.(\d+)\.attention\.output\.(.*)", r"encoder.layers.encoder_layer_\1.self_attention.out_proj.\2"),
    (r"encoder\.(\d+)\.mlp\.norm\.(.*)", r"encoder.layers.encoder_layer_\1.ln_2.\2"),
    (r"encoder\.(\d+)\.mlp\.layers\.(\d)\.(.*)", r"encoder.layers.encoder_layer_\1.mlp.\2.\3"),
    (r"norm\.(.*)", r"encoder.ln.\1"),
    (r"classifier\.(.*)", r"heads.head.\1"),
]


def of_torchvision(name: str) -> str:
    return next(re.sub(pattern, new, name) for pattern, new in NAMES if re.fullmatch(pattern, name))


def with_weights_of(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    """Gives our model all weights of torchvision's, of which none may be left over."""
    weights = theirs.state_dict()
    ours.load_state_dict({name: weights.pop(of_torchvision(name)) for name in ours.state_dict()})
    assert not weights
    return ours.eval()


def test_a_vit_b_16_for_the_course_s_photos_has_as_many_parameters_as_the_course_s() -> None:
    with torch.device("meta"):
        model = build_model("vit", BASE, (3, 224, 224), 3)
    assert sum(parameter.numel() for parameter in model.parameters()) == 85_800_963


def test_on_the_same_weights_it_is_torchvision_s() -> None:
    torch.manual_seed(42)
    theirs = VisionTransformer(
        image_size=16, patch_size=4, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=5
    ).eval()
    for parameter in theirs.parameters():  # torchvision starts with zeros in the head
        nn.init.normal_(parameter, std=0.3)
    ours = with_weights_of(theirs, build_model("vit", SMALL, (3, 16, 16), 5))
    pictures = torch.rand(3, 3, 16, 16)
    with torch.inference_mode():
        expected, found = theirs(pictures), ours(pictures)
    assert expected.std() > 0.1
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)


def test_at_full_size_it_is_torchvision_s_vit_b_16() -> None:
    torch.manual_seed(42)
    with torch.device("meta"):  # drawing the weights of both as they start would take several seconds
        theirs, ours = vit_b_16(num_classes=10), build_model("vit", BASE, (3, 224, 224), 10)
    theirs = theirs.to_empty(device="cpu").eval()
    for parameter in theirs.parameters():
        bound = 1.0 if parameter.ndim == 1 else 0.05
        nn.init.uniform_(parameter, -bound, bound)
    ours = with_weights_of(theirs, ours.to_empty(device="cpu"))
    picture = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        expected, found = theirs(picture), ours(picture)
    assert expected.std() > 0.1
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)


def test_the_exported_model_takes_any_number_of_pictures() -> None:
    torch.manual_seed(42)
    model = build_model("vit", SMALL, (1, 8, 8), 10).eval()
    nn.init.normal_(model.get_parameter("classifier.weight"))
    batch = torch.export.Dim.DYNAMIC
    exported = torch.export.export(model, (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: batch},)).module()
    for samples in (1, 2, 7):
        pictures = torch.rand(samples, 1, 8, 8)
        assert torch.allclose(exported(pictures), model(pictures), atol=1e-6)


def test_both_dropouts_act_in_training_alone() -> None:
    for dropout in ("dropout", "attention_dropout"):
        torch.manual_seed(42)
        model = build_model("vit", {**SMALL, dropout: 0.5}, (1, 8, 8), 10)
        nn.init.normal_(model.get_parameter("classifier.weight"))
        pictures = torch.rand(2, 1, 8, 8)
        assert not torch.equal(model.train()(pictures), model(pictures))
        assert torch.equal(model.eval()(pictures), model(pictures))


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("patch_size", 3, r"height and width are multiples of 3; the inputs are \(1, 8, 8\)"),
        ("patch_size", 0, "patch_size is 0; it must be >= 1"),
        ("heads", 5, "embedding_size is 32; it must be a multiple of heads, 5"),
        ("layers", 0, "layers is 0; it must be >= 1"),
        ("dropout", 1.5, "dropout probability has to be between 0 and 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(argument: str, value: Any, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build_model("vit", {**SMALL, argument: value}, (1, 8, 8), 10)
