"""Reads photo files, and copies a user's folders and archives of photos."""
