"""Pure PyTorch: datasets, models, metrics, the training loop, plots and checks, without DVC, Prefect or MLflow."""
