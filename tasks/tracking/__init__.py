"""The one seam to MLflow: every training run's parameters, curves, state_dict, figures and model, and the champions."""
