"""Pure functions that decide which of a dataset's experiments is best and whether it may replace the champion."""
