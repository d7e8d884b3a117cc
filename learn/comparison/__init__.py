"""Which of a dataset's experiments is best, and whether it may replace the champion. Pure functions of numbers."""
