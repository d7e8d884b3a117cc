"""Any image model of timm (PyTorch Image Models), pretrained or not, with a new head.

model: {name: timm, architecture: tf_efficientnet_lite0, weights: in1k, dropout: 0.2}
"""

from __future__ import annotations

from learn.errors import ArgumentError, did_you_mean
from learn.models.blocks.backbone import Backbone, Freeze, WeightsName, check_images
from learn.models.blocks.weights import Weights, named_in_url, parse_weights


class Timm(Backbone):
    """Maps images (N, 3, H, W) in [0, 1] to logits (N, output_size).

    Args:
        input_shape: (3, H, W).
        output_size: Number of logits.
        architecture: A model's name in timm, such as tf_efficientnet_lite0.
        weights: The tag of timm's weights for it, such as in1k; a file of your own, as
            `{file: NAME.safetensors, sha256: ..., source: PATH}`; or None for random weights.
        dropout: Fraction of the features that is dropped in training, before the linear layer.
        freeze: `backbone`, `none`, or the number of first blocks that are frozen.
        freeze_statistics: Whether frozen blocks stay in evaluation mode.
        unfreeze_after: Number of epochs after which everything is trained, if not None.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        *,
        architecture: str,
        weights: WeightsName,
        dropout: float = 0.0,
        freeze: Freeze = "backbone",
        freeze_statistics: bool = True,
        unfreeze_after: int | None = None,
    ) -> None:
        import timm

        check_images(input_shape)
        if not timm.is_model(architecture):
            raise ArgumentError(
                "architecture",
                f"is {architecture}, which is no model of timm{did_you_mean(architecture, timm.list_models())}",
            )
        chosen = _weights(architecture, weights)
        backbone = timm.create_model(architecture, pretrained=False, num_classes=0)
        about = backbone.pretrained_cfg
        if about.get("fixed_input_size") and input_shape != about["input_size"]:
            raise ValueError(f"{architecture} takes images of {about['input_size']}; the inputs are {input_shape}")
        classifier = about["classifier"]
        names = (classifier,) if isinstance(classifier, str) else classifier
        super().__init__(
            backbone,
            getattr(backbone, "head_hidden_size", backbone.num_features),
            output_size,
            normalization=(about["mean"], about["std"]),
            replaced=tuple(f"{name}." for name in names),
            weights=chosen,
            dropout=dropout,
            freeze=freeze,
            freeze_statistics=freeze_statistics,
            unfreeze_after=unfreeze_after,
        )


def _weights(architecture: str, given: WeightsName) -> Weights | None:
    if not isinstance(given, str):
        return parse_weights(given) if given is not None else None
    import timm

    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if given not in tags:
        raise ArgumentError("weights", f"is {given}; it must be one of {', '.join(tags)}, a file of your own, or null")
    about = timm.get_pretrained_cfg(f"{architecture}.{given}")
    return named_in_url(about.url or "", given)
