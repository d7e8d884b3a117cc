"""Turns a source into arrays: datasets, photo files, splits and resizing."""
