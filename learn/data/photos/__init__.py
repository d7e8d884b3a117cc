"""Photo files: reading one, taking in folders and archives of them."""
