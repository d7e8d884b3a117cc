"""From a source to arrays: datasets, photo files, resizing."""
