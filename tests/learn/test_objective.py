from __future__ import annotations

import pytest
import torch

from learn.build import BuildError, build_loss


def test_a_binary_loss_has_one_logit_for_two_classes() -> None:
    objective = build_loss("BCEWithLogitsLoss", {}, ("no", "yes"))
    assert objective.output_size == 1
    logits, targets = torch.tensor([[-1.0], [2.0]]), torch.tensor([0, 1])
    assert objective.predict(logits).tolist() == [0, 1]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits.squeeze(), targets.float())
    assert objective(logits, targets) == expected


def test_probabilities_are_cut_at_one_half() -> None:
    objective = build_loss("BCELoss", {}, ("no", "yes"))
    assert objective.predict(torch.tensor([[0.4], [0.6]])).tolist() == [0, 1]


def test_other_losses_have_one_logit_a_class_and_regression_has_one_number() -> None:
    assert build_loss("CrossEntropyLoss", {"label_smoothing": 0.1}, ("a", "b")).output_size == 2
    regression = build_loss("L1Loss", {}, ())
    assert regression.output_size == 1
    assert regression.predict(torch.tensor([[1.5]])).tolist() == [[1.5]]


def test_class_weights_may_be_a_list() -> None:
    objective = build_loss("CrossEntropyLoss", {"weight": [1, 3]}, ("a", "b"))
    assert objective.loss.weight.tolist() == [1.0, 3.0]


def test_an_argument_that_torch_does_not_know_is_refused() -> None:
    with pytest.raises(BuildError, match="is not an argument of CrossEntropyLoss; allowed: weight"):
        build_loss("CrossEntropyLoss", {"smoothing": 0.1}, ("a", "b"))
