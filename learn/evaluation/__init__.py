"""What a trained model is worth: metrics, diagnosis, plots."""
