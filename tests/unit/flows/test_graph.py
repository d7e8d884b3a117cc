"""The order of stages, and targets."""

from __future__ import annotations

from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.graph import Graph
from learn.errors import GraphError, ParamsError

STAGES = """
stages:
  evaluate:
    foreach: [a, b]
    do:
      cmd: "true"
      deps: ["models/${item}"]
      outs: ["metrics/${item}"]
  train:
    foreach: [a, b]
    do:
      cmd: "true"
      deps: [data]
      outs: ["models/${item}"]
  split:
    cmd: "true"
    outs: [data]
"""


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.chdir(tmp_path)  # DVC names stages as seen from here
    Repo.init(str(tmp_path), no_scm=True).close()
    (tmp_path / "dvc.yaml").write_text(STAGES, encoding="utf-8")
    return Graph(tmp_path)


def test_each_stage_comes_after_what_it_needs(graph: Graph) -> None:
    order = graph.order(None)
    assert sorted(order) == ["evaluate@a", "evaluate@b", "split", "train@a", "train@b"]
    for name in order:
        assert all(order.index(need) < order.index(name) for need in graph.needs(name))


@pytest.mark.parametrize(
    ("target", "stages"),
    [
        ("train@a", ["split", "train@a"]),
        ("a", ["evaluate@a", "split", "train@a"]),
        ("train", ["split", "train@a", "train@b"]),
        ("split", ["split"]),
    ],
)
def test_a_target_is_a_stage_a_kind_of_stage_or_a_name(graph: Graph, target: str, stages: list[str]) -> None:
    assert sorted(graph.order([target])) == stages


def test_an_unknown_target_is_refused_with_what_was_meant(graph: Graph) -> None:
    with pytest.raises(ParamsError, match=r"target trian is no stage, dataset or experiment.*train"):
        graph.order(["trian"])


def test_what_never_ran_is_not_up_to_date(graph: Graph) -> None:
    assert graph.changed() == set(graph.stages)
    assert graph.changed(["split"]) == {"split"}


def test_a_circle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Repo.init(str(tmp_path), no_scm=True).close()
    (tmp_path / "dvc.yaml").write_text(
        'stages:\n  a: {cmd: "true", deps: [x], outs: [y]}\n  b: {cmd: "true", deps: [y], outs: [x]}\n'
    )
    with pytest.raises(GraphError, match="DVC cannot read the stages"):
        Graph(tmp_path)
