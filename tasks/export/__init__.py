"""Writes registered models as files for other programs, each checked against the model before it is kept."""
