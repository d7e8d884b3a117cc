"""Files with pretrained weights: which one a model names, and how it is read.

    weights = named_in_url("https://.../efficientnet_b0_rwightman-7f5810bc.pth", "IMAGENET1K_V1")
    state_dict = read_state_dict(Path("efficientnet_b0_rwightman-7f5810bc.pth"))

A file is known by its sha256, which stands in params.yaml, or in the file's published name as its first eight digits.
Either is a parameter of the training, so other weights are another training.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from learn.errors import ArgumentError, DataError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
DIGITS = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Weights:
    """A file with pretrained weights."""

    file: str  # its name, also on a mirror, in the folder weights/
    sha256: str  # the first 8 to 64 hexadecimal digits of its sha256
    source: str | None = None  # an address, or a path; None if only a mirror has it


def parse_weights(given: dict[str, str]) -> Weights:
    """Turns `{file: ..., sha256: ..., source: ...}` of params.yaml into Weights.

    Raises:
        ArgumentError: A key is missing or unknown, or a value is not allowed.
    """
    if not {"file", "sha256"} <= set(given) <= {"file", "sha256", "source"}:
        keys = ", ".join(given) or "none"
        raise ArgumentError("weights", f"has the keys {keys}; it must have file and sha256, and may have source")
    weights = Weights(**given)
    if not weights.file.endswith(SUFFIXES) or PurePosixPath(weights.file).name != weights.file or "\\" in weights.file:
        raise ArgumentError(
            "weights.file",
            f"is {weights.file}; it must be a name without folders that ends with {', '.join(SUFFIXES)}",
        )
    if not DIGITS.fullmatch(weights.sha256):
        raise ArgumentError(
            "weights.sha256",
            f"is {weights.sha256}; it must be the file's sha256, 64 hexadecimal digits, or at least the first 8 of "
            f"them (sha256sum {weights.file} prints it)",
        )
    return weights


def named_in_url(url: str, name: str) -> Weights:
    """Returns published weights, whose file's name ends with the first digits of its sha256.

    Args:
        url: The address, such as `https://.../efficientnet_b0_rwightman-7f5810bc.pth`.
        name: The name of the weights in params.yaml, for the message.

    Raises:
        ArgumentError: The name of the file has no digits.
    """
    file = PurePosixPath(url).name
    digits = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", file)
    if not digits:
        raise ArgumentError(
            "weights",
            f"is {name}, whose file {file or '(none)'} is published without a checksum; download it and give "
            "weights: {file: NAME.safetensors, sha256: ..., source: PATH}",
        )
    return Weights(file, digits[1], url)


def read_state_dict(file: Path) -> dict[str, torch.Tensor]:
    """Reads a file of safetensors, or of torch without Python objects, on the CPU.

    Raises:
        DataError: The file is damaged, or holds something other than tensors, which is never loaded.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        found = torch.load(file, weights_only=True, map_location="cpu")
        if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
            raise TypeError("it is not a mapping of names to tensors")
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors, torch and pickle raise many kinds
        raise DataError(
            f"{file} does not hold weights alone: it is damaged, or has Python objects, which are never loaded "
            f"({type(error).__name__}); save the state_dict's tensors with safetensors.torch.save_file"
        ) from error
    return found
