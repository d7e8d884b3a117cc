"""Datasets by their name in params.yaml: `source: {name: line, weight: 0.7, ...}`.

To add one, write its class in `learn/data/datasets/NAME.py` (learn/data/source.py says what it must have) and an entry
in DATASETS. Each dataset has its own file, because a stage depends on the file of its dataset only: a new dataset makes
no finished run stale.
"""

from __future__ import annotations

from learn.data.datasets.blobs import Blobs
from learn.data.datasets.circles import Circles
from learn.data.datasets.digits import Digits
from learn.data.datasets.fashion_mnist import FashionMNIST
from learn.data.datasets.images import Images
from learn.data.datasets.line import Line
from learn.data.datasets.pizza_steak_sushi import PizzaSteakSushi
from learn.data.datasets.table import Table
from learn.data.datasets.wine import Wine
from learn.data.source import Source

DATASETS: dict[str, type[Source]] = {
    "line": Line,
    "circles": Circles,
    "blobs": Blobs,
    "digits": Digits,
    "fashion_mnist": FashionMNIST,
    "pizza_steak_sushi": PizzaSteakSushi,
    "images": Images,
    "table": Table,
    "wine": Wine,
}
