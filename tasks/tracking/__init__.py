"""The only package that uses MLflow: writes runs (parameters, curves, weights, figures, model), registers champions."""
