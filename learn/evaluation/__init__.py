"""Metrics of a trained model, and a diagnosis of its training."""
