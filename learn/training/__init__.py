"""From arrays to a trained model: splits as tensors, augmentation, criterion, the loop."""
