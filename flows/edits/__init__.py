"""Commands that change params.yaml, and keep its comments."""
