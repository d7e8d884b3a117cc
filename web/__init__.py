"""The served page and API of a registered model: `trackway serve food@champion`."""
