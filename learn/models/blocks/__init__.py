"""Layers that several models share; all models depend on this folder, so a change of it trains every model again."""
