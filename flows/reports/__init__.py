"""What people read: the table of results."""
