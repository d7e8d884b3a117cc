"""The keys of metrics/D/E.report.json by which other code finds what was evaluated."""

from __future__ import annotations

STATE_DICT_KEY = "state_dict.sha256"  # of the kept weights, or of those of all seeds
TEST_DATA_KEY, VALIDATION_DATA_KEY = "test_data.md5", "validation_data.md5"  # of the samples of a split
DATA_KEYS = {"validation": VALIDATION_DATA_KEY, "test": TEST_DATA_KEY}  # split → the key with the md5 of its samples
