"""What a training tells its writer comes out as it went in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.tracking.lineage import Lineage
from tasks.tracking.messages import (
    Begin,
    End,
    Epoch,
    Epochs,
    Files,
    Message,
    RunHeader,
    decode,
    decode_header,
    encode,
    encode_header,
)
from tasks.tracking.tags import STAGE


@pytest.mark.parametrize(
    "message",
    [
        Begin({"optimizer.lr": 0.1, "layers": [5, 5]}, {"version.torch": "2.15"}, "a\ntable"),
        Epochs([Epoch(1, 1_700_000_000_000, {"train/loss": 0.1 + 0.2}), Epoch(2, 1_700_000_000_001, {})]),
        Files("models/a", "0" * 64, "plots/history/a.csv", 1.5),
        End("FINISHED", 1_700_000_000_002),
        Epochs([Epoch(1, 1_700_000_000_000, {"train/loss": 1.5})], seed=43),
        Files("models/a/seed-43", "0" * 64, "models/a/seed-43/history.csv", None, 43),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_is_one_line(message: Message) -> None:
    line = encode(message)
    assert line.count("\n") == 1
    assert decode(line) == message


def test_a_header_is_one_line() -> None:
    lineage = Lineage("digits", "data/x", "md5", {STAGE: "train@a"}, "")
    header = RunHeader("k", "sqlite:///x", "", "digits", "a", 1, "[]", lineage, {"mlflow.user": "me"}, "--- a\n+++ b\n")
    assert decode_header(encode_header(header)) == header
    named = replace(header, project="vision")
    assert decode_header(encode_header(named)) == named
    older = {key: value for key, value in json.loads(encode_header(header)).items() if key != "project"}
    assert decode_header(json.dumps(older)) == header


@pytest.mark.parametrize("line", ['{"kind": "Begin"}', '{"kind": "Nothing"}', '{"params": {}}', "[]", "half a li"])
def test_anything_else_is_refused(line: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        decode(line)


def test_the_files_of_a_training_are_known_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"abc")
    message = Files.of(tmp_path, tmp_path / "history.csv")
    assert message.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert json.loads(encode(message))["seconds"] is None
