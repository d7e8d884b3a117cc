"""What the transform stage makes of inputs (arrays ready for batches, a table's columns) and what it finds."""

from learn.data.transformed.arrays import (
    BROKEN,
    CROP,
    EVALUATION,
    IMPUTE,
    INFO,
    INTERPOLATION,
    MODE,
    ONE_HOT,
    RESIZE,
    STANDARDIZE,
    TRAINING,
    Info,
    folder_of,
    resize,
)
from learn.data.transformed.columns import COLUMNS, RAW, FittedColumns, feature_count, fit_columns, read_raw
from learn.data.transformed.problems import IMBALANCE, Problem, class_counts, class_problems
from learn.data.transformed.table_checks import table_problems
from learn.data.transformed.yardsticks import YARDSTICKS, predict_yardsticks

__all__ = [
    "BROKEN",
    "COLUMNS",
    "CROP",
    "EVALUATION",
    "IMBALANCE",
    "IMPUTE",
    "INFO",
    "INTERPOLATION",
    "MODE",
    "ONE_HOT",
    "RAW",
    "RESIZE",
    "STANDARDIZE",
    "TRAINING",
    "YARDSTICKS",
    "FittedColumns",
    "Info",
    "Problem",
    "class_counts",
    "class_problems",
    "feature_count",
    "fit_columns",
    "folder_of",
    "predict_yardsticks",
    "read_raw",
    "resize",
    "table_problems",
]
