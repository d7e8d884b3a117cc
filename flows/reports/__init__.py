"""Reports for people: the table of results."""
