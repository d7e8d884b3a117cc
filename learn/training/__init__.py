"""Turns arrays into a trained model: splits as tensors, augmentation, criterion, and the training loop."""
