"""Pure PyTorch: params, datasets, models, metrics, the training loop, plots and checks. No DVC, Prefect or MLflow."""
