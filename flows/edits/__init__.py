"""The changes that commands make to params.yaml; comments are kept."""
