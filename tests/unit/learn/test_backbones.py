from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from learn.errors import DataError
from learn.models.blocks.backbone import Backbone, blocks_of
from learn.models.blocks.weights import Weights
from learn.training.build import BuildError, build_loss, build_model, build_optimizer
from learn.training.loop import FitOptions, fit
from learn.training.splits import Split
from learn.training.state import State

CLASSES = ("pizza", "steak", "sushi")
SIZE = 32  # pixels; the smallest of these networks take any size
SMALL: dict[str, Any] = {"architecture": "mobilenet_v3_small", "weights": "IMAGENET1K_V1"}
OWN = {"file": "own.safetensors", "sha256": "0123abcd"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a stage has; with more, small layers wait for each other where the processor is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def built(name: str, size: int = SIZE, **arguments: Any) -> Backbone:
    model = build_model(name, arguments, (3, size, size), len(CLASSES))
    assert isinstance(model, Backbone)
    return model


def linear(model: Backbone) -> nn.Linear:
    layer = model.head[-1]
    assert isinstance(layer, nn.Linear)
    return layer


@pytest.mark.parametrize(
    ("architecture", "weights", "total", "trainable"),
    [
        ("efficientnet_b0", "IMAGENET1K_V1", 4_011_391, 3_843),
        ("efficientnet_b2", "IMAGENET1K_V1", 7_705_221, 4_227),
        ("vit_b_16", "IMAGENET1K_V1", 85_800_963, 2_307),
        ("vit_b_16", None, 85_800_963, 85_800_963),
    ],
)
def test_the_numbers_of_parameters_are_the_course_s(
    architecture: str, weights: str | None, total: int, trainable: int
) -> None:
    """Chapters 6 to 8."""
    with torch.device("meta"):
        freeze = "backbone" if weights else "none"
        model = built("torchvision", 224, architecture=architecture, weights=weights, freeze=freeze, dropout=0.2)
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


def test_published_weights_are_known_by_the_digits_in_their_file_s_name() -> None:
    with torch.device("meta"):
        model = built("torchvision", architecture="efficientnet_b0", weights="IMAGENET1K_V1")
        assert model.weights
        assert model.weights.file == "efficientnet_b0_rwightman-7f5810bc.pth"
        assert model.weights.sha256 == "7f5810bc"
        model = built("timm", architecture="tf_efficientnet_lite0", weights="in1k")
        assert model.weights
        assert model.weights.file == "tf_efficientnet_lite0-0aa007d2.pth"
        model = built("timm", architecture="tf_efficientnet_lite0", weights=OWN)
        assert model.weights == Weights("own.safetensors", "0123abcd")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("torchvision", {"architecture": "efficientnet_bo", "weights": None}, "did you mean efficientnet_b7"),
        ("torchvision", {"architecture": "efficientnet_b0", "weights": "DEFAULT"}, "it must be one of IMAGENET1K_V1,"),
        ("torchvision", {"architecture": "efficientnet_b0", "weights": None}, "what is random would stay so"),
        ("torchvision", {"architecture": "vit_b_16", "weights": None, "freeze": "none"}, "takes images of (224, 224)"),
        ("torchvision", {**SMALL, "freeze": 99}, "is 99; it must be backbone, none, or a number of blocks from"),
        ("torchvision", {"architecture": "squeezenet1_0", "weights": "IMAGENET1K_V1"}, "does not end with a linear"),
        ("torchvision", {**SMALL, "unfreeze_after": 0}, "it must be >= 1"),
        ("torchvision", {**SMALL, "freeze": "none", "unfreeze_after": 2}, "or null if nothing is frozen"),
        ("timm", {"architecture": "resnet_18", "weights": None}, "did you mean resnet18"),
        ("timm", {"architecture": "resnet18", "weights": "in99"}, "is in99; it must be one of a1_in1k, "),
        ("timm", {"architecture": "resnet18", "weights": {"file": "a.pth"}}, "it must have file and sha256"),
        ("timm", {"architecture": "resnet18", "weights": OWN | {"sha256": "x"}}, "64 hexadecimal digits"),
        ("timm", {"architecture": "resnet18", "weights": OWN | {"file": "../a.pth"}}, "a name without folders"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_allowed(name: str, arguments: Any, message: str) -> None:
    with torch.device("meta"), pytest.raises(BuildError) as refused:
        built(name, **arguments)
    assert message in str(refused.value)


def test_only_colour_images_are_taken() -> None:
    with pytest.raises(BuildError, match=r"takes colour images \(3, height, width\); the inputs are \(1, 28, 28\)"):
        build_model("torchvision", SMALL, (1, 28, 28), 10)


def test_weights_are_loaded_without_their_head_and_others_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = built("torchvision", **SMALL)
    pretrained = {
        f"{k}": torch.rand_like(v) if v.is_floating_point() else v for k, v in model.backbone.state_dict().items()
    }
    head = {"classifier.3.weight": torch.rand(1000, 1024), "classifier.3.bias": torch.rand(1000)}
    save_file(pretrained | head, tmp_path / "a.safetensors")
    before = linear(model).weight.clone()
    model.load_pretrained(tmp_path / "a.safetensors")
    assert torch.equal(linear(model).weight, before)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, pretrained[name]), name

    torch.save(pretrained | head, tmp_path / "a.pth")
    model.load_pretrained(tmp_path / "a.pth")
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "b.pth")
    with pytest.raises(DataError, match=r"b.pth does not hold weights alone: it is damaged, or has Python objects"):
        model.load_pretrained(tmp_path / "b.pth")
    save_file({"other.weight": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(DataError, match=r"does not fit model.architecture: it has no features.* and \d+ more"):
        model.load_pretrained(tmp_path / "c.safetensors")
    (tmp_path / "d.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match="is damaged"):
        model.load_pretrained(tmp_path / "d.safetensors")


def test_the_backbone_s_own_normalization_is_part_of_the_model() -> None:
    """What is registered takes the same inputs as other models: pixels from 0 to 1."""
    model = built("timm", architecture="tf_efficientnet_lite0", weights="in1k").eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(model.features(images), model.backbone((images - 0.5) / 0.5))
    assert not {"mean", "std"} & set(model.state_dict()), "they are known from the architecture"


def test_the_first_blocks_are_frozen_and_the_others_not() -> None:
    model = built("torchvision", **SMALL, freeze=3)
    blocks = blocks_of(model.backbone)
    assert not any(p.requires_grad for block in blocks[:3] for p in block.parameters())
    assert all(p.requires_grad for block in blocks[3:] for p in block.parameters())
    assert [block.training for block in blocks] == [False] * 3 + [True] * (len(blocks) - 3)
    assert not model.has_constant_features
    with torch.device("meta"):
        assert (
            len(blocks_of(built("torchvision", 224, architecture="vit_b_16", weights="IMAGENET1K_V1").backbone)) == 14
        )


def split(name: str, samples: int) -> Split:
    generator = torch.Generator().manual_seed(samples)
    inputs = torch.randint(0, 256, (samples, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return Split(name, inputs, torch.arange(samples) % 3, 255.0, torch.channels_last)


def trained(model: Backbone, epochs: int = 2) -> list[dict[str, float]]:
    criterion = build_loss("CrossEntropyLoss", {}, CLASSES)
    torch.manual_seed(7)
    state = State(model, build_optimizer("Adam", {"lr": 0.01, "weight_decay": 0.1}, model))
    parts = split("train", 12), split("test", 6)
    return [epoch.metrics for epoch in fit(state, *parts, criterion, FitOptions(epochs, 4))]


@pytest.mark.parametrize("freeze", ["backbone", 5])
def test_no_frozen_tensor_changes_by_a_bit(freeze: Any) -> None:
    """Also without kept features, and with an optimizer that decays weights."""
    torch.manual_seed(0)
    model = built("torchvision", **SMALL, freeze=freeze)
    model.has_constant_features = False
    blocks = [model.backbone] if freeze == "backbone" else blocks_of(model.backbone)[:freeze]
    before = [{k: v.clone() for k, v in block.state_dict().items()} for block in blocks]
    head = linear(model).weight.clone()
    trained(model)
    for block, tensors in zip(blocks, before, strict=True):
        for name, value in block.state_dict().items():
            assert value.numpy().tobytes() == tensors[name].numpy().tobytes(), name
    assert not torch.equal(linear(model).weight, head)


def test_the_statistics_go_on_if_the_course_s_way_is_chosen() -> None:
    torch.manual_seed(0)
    model = built("torchvision", **SMALL, freeze_statistics=False)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    trained(model, 1)
    changed = {k.rpartition(".")[2] for k, v in model.backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


def test_features_that_are_computed_once_give_the_numbers_of_those_computed_each_epoch() -> None:
    torch.manual_seed(0)
    kept = built("torchvision", **SMALL, dropout=0.2)
    torch.manual_seed(0)
    computed = built("torchvision", **SMALL, dropout=0.2)
    assert kept.has_constant_features
    computed.has_constant_features = False
    for one, other in zip(trained(kept, 3), trained(computed, 3), strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    for name, value in kept.state_dict().items():
        assert torch.allclose(value, computed.state_dict()[name], atol=1e-6), name


@pytest.mark.parametrize("keeps", [True, False])
def test_what_is_frozen_is_trained_after_some_epochs(keeps: bool) -> None:
    """The head alone learns in the first two epochs, from features that are kept or not; then everything does."""
    torch.manual_seed(0)
    model = built("torchvision", **SMALL, unfreeze_after=2)
    model.has_constant_features = keeps
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    criterion = build_loss("CrossEntropyLoss", {}, CLASSES)
    groups = {"backbone": {"lr": 1e-4}}
    state = State(model, build_optimizer("Adam", {"lr": 0.01}, model, groups=groups))
    epochs = fit(state, split("train", 12), split("test", 6), criterion, FitOptions(3, 4))
    for _ in range(2):
        next(epochs)
        assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    next(epochs)
    changed = [k for k, v in model.backbone.state_dict().items() if not torch.equal(v, before[k])]
    assert len(changed) == len(before)
    weight = next(name for name, _ in model.backbone.named_parameters())
    assert (model.backbone.state_dict()[weight] - before[weight]).abs().max() < 0.001, "at its own learning rate"


def test_a_part_of_a_model_has_a_learning_rate_and_a_weight_decay_of_its_own() -> None:
    model = built("torchvision", **SMALL)
    groups = {"backbone": {"lr": 1e-4}, "head": {"weight_decay": 0.2}}
    optimizer = build_optimizer("AdamW", {"lr": 0.01, "weight_decay": 0.1}, model, "norms_and_biases", groups)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[p]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    assert found.keys() == set(names.values())
    assert {value for name, value in found.items() if name.startswith("backbone.")} == {(1e-4, 0.1), (1e-4, 0.0)}
    assert {found["head.1.weight"], found["head.1.bias"]} == {(0.01, 0.2), (0.01, 0.0)}


@pytest.mark.parametrize(
    ("groups", "key", "message"),
    [
        ({"bakbone": {"lr": 1e-4}}, "groups.bakbone", "its parts are backbone, head, .*; did you mean backbone?"),
        ({"back": {"lr": 1e-4}}, "groups.back", "is no part of the model"),
        ({"backbone": {}, "backbone.features": {}}, "groups.backbone.features", "or lies in another group"),
        ({"head": {"lr_decay": 1}}, "groups.head.lr_decay", "is not an argument of Adam"),
    ],
)
def test_a_part_that_is_not_there_is_refused(groups: dict[str, dict[str, Any]], key: str, message: str) -> None:
    with pytest.raises(BuildError, match=message) as caught:
        build_optimizer("Adam", {"lr": 0.01}, built("torchvision", **SMALL), groups=groups)
    assert caught.value.key == key
