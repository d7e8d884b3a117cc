"""Layers that several models share. All models depend on this folder: a change of it trains every model again."""
