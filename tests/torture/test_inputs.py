"""Hostile inputs: each is refused or survived, with a clear message, and nothing of it is executed."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from bench.memory import transform_peak
from learn.errors import ParamsError
from tasks.params import read_yaml
from tests.support.project import ROOT, TRACKWAY, Project

# Out of both kinds of quotes, a command within, commands after it
SHELL = """a'"`touch executed`$(touch executed);touch executed&touch executed|touch executed #"""
LINES = "--help\ntouch executed"
NAMES = (SHELL, LINES, "a\u2028touch executed", "a b", "-h", "\x1b[2Ja", "a\u202eb")


def test_a_name_is_never_executed_and_is_refused(finished: Project) -> None:
    params = YAML(typ="safe").load(finished.read("params.yaml"))
    for section, like in (("datasets", "circles"), ("experiments", "circles-linear")):
        params[section] = dict.fromkeys(NAMES, params[section][like]) | params[section]
    (finished.folder / "params.yaml").write_text(json.dumps(params), encoding="utf-8")  # YAML reads JSON

    done = finished.run("dvc", "repro", "--keep-going", f"download@{LINES}", f"train@{SHELL}", check=False)
    assert done.returncode != 0
    assert done.stdout.count(f"error: datasets.{SHELL}: a name must be letters, digits, - and _; not {SHELL!r}") == 2
    assert not (finished.folder / "executed").exists()
    shown = finished.run(*TRACKWAY, "check", check=False).stdout
    for name in NAMES:
        assert f"a name must be letters, digits, - and _; not {name!r}" in shown
    assert "Traceback" not in done.stdout + shown
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown


def test_a_name_does_not_lead_to_other_folders(finished: Project) -> None:
    (finished.folder / "notes").mkdir()
    (finished.folder / "notes/mine.txt").write_text("precious")
    for old, name in (("circles-linear:", "../notes"), ("circles:", "../../notes")):
        finished.edit("params.yaml", f"  {old}", f"  {name}:")
        assert finished.run("dvc", "repro", check=False).returncode != 0
    assert (finished.folder / "notes/mine.txt").read_text() == "precious"


# ---- photos


def photos(folder: Path, *names: str) -> Path:
    """A folder of small pictures of noise."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_photos_whose_names_or_parts_are_wrong_change_nothing(project: Project, tmp_path: Path) -> None:
    good = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(8)]
    before = project.read("params.yaml")
    bad = photos(tmp_path / "bad", "cat/1.png", "dog/1.png")
    (bad / "cat/1.png").rename(bad / "cat" / os.fsdecode(b"caf\xe9.png"))
    (bad / "train.csv").write_text("file,label,part\ndog/1.png,a,train\ndog/1.png,b,train\n")
    for path, message in ((bad, "is not UTF-8; rename it"), (bad / "train.csv", "has no photo for testing")):
        done = project.run(*TRACKWAY, "add-images", "pets", str(path), check=False)
        assert done.returncode == 1
        assert message in done.stdout
        assert "Traceback" not in done.stdout
    assert project.read("params.yaml") == before
    assert not list((project.folder / "data/raw").iterdir())

    project.run(*TRACKWAY, "add-images", "pets", str(photos(tmp_path / "good", *good)))
    project.stage("download@pets")
    added = project.read("params.yaml")
    project.edit("params.yaml", "train: 16", "train: 17")
    done = project.stage("split@pets", check=False)
    assert "data/raw/pets has 16 photos in the classes of params.yaml, where 17 are said" in done.stdout
    assert "Traceback" not in done.stdout
    for old, new, message in (
        ('["cat", "dog"]', '["cat", "a\\nb"]', "class_names has 'a\\nb'; each must be the name of a folder"),
        ('["cat", "dog"]', '["cat", "../dog"]', "class_names has '../dog'; each must be the name of a folder"),
        ("train: 16", "train: 0", "train is 0 and test 0; it must be train >= 1"),
    ):
        (project.folder / "params.yaml").write_text(added.replace(old, new))
        done = project.run(*TRACKWAY, "check", check=False)
        assert done.returncode == 1
        assert message in done.stdout
        assert "Traceback" not in done.stdout


def png(width: int, height: int, content: bytes = b"") -> bytes:
    """A PNG that says so of its size, and has this as its compressed pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def test_what_is_no_honest_picture_is_refused_or_read_in_little_memory(tmp_path: Path) -> None:
    nothing = zlib.compress(bytes(10_000), 9)
    Image.new("RGB", (12_000, 12_000)).save(tmp_path / "bomb.png")
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 255)]
    frames[0].save(tmp_path / "many.gif", save_all=True, append_images=frames[1:])
    whole = (tmp_path / "many.gif").read_bytes()
    second = whole.rindex(b"\x21\xf9")  # the extension before the last frame
    (tmp_path / "many.gif").write_bytes(whole[:-1] + whole[second:-1] * 10_000 + b";")
    for name, content in (
        ("empty.jpg", b""),
        ("huge.png", png(2**31 - 1, 2**31 - 1, nothing)),
        ("lies.png", png(8000, 8000, nothing)),
        ("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
    ):
        (tmp_path / name).write_bytes(content)
    reading = (
        "import resource, sys, warnings; from pathlib import Path\n"
        "from learn.data.photos.decode import PhotoError, open_photo\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))\n"
        "warnings.simplefilter('ignore')\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(name, open_photo(Path(name)).size)\n"
        "    except PhotoError as error: print(name, error)\n"
    )
    names = ("empty.jpg", "huge.png", "lies.png", "drawing.png", "bomb.png", "many.gif")
    done = subprocess.run(
        [sys.executable, "-c", reading, *names],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said["empty.jpg"].startswith("it is no picture of these formats")
    assert said["drawing.png"].startswith("it is no picture of these formats")
    assert "decompression bomb" in said["huge.png"]
    assert "truncated" in said["lies.png"]
    assert said["bomb.png"] == "it has 12,000×12,000 pixels by its header; at most 89,478,485 in all are read"
    assert said["many.gif"] == "(4, 4)"


def test_the_transform_stage_does_not_keep_the_photos_in_memory() -> None:
    """1,500 of them, which become 74 MB."""
    before, peak = transform_peak(1500, 28, 128)
    assert peak - before < 60


# ---- what stages hand to each other, and params.yaml


class Executed:
    """Loading its pickle makes a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_no_pickle_is_loaded(finished: Project) -> None:
    pickled = pickle.dumps(Executed())
    objects = finished.folder / "objects.npy"
    np.save(objects, np.array([Executed()], object), allow_pickle=True)
    for stage, file, maker, content in (
        ("evaluate@digits-mlp", "models/digits-mlp/model.pt", "train@digits-mlp", pickled),
        ("evaluate@digits-mlp", "models/digits-mlp/model.pt", "train@digits-mlp", b""),
        ("split@digits", "data/raw/digits/targets.npy", "download@digits", objects.read_bytes()),
        ("transform@digits", "data/split/digits/train.npy", "split@digits", pickled),
        (
            "train@digits-mlp",
            "data/transformed/digits/training/train-inputs.npy",
            "transform@digits",
            objects.read_bytes(),
        ),
    ):
        path = finished.folder / file
        whole = path.read_bytes()
        path.unlink()  # it may be a link into the cache
        path.write_bytes(content)
        done = finished.stage(stage, check=False)
        assert done.returncode == 1
        assert f"error: {file} is not what the stage {maker} writes: it is damaged, or holds Python" in done.stdout
        assert f"`dvc repro --force {maker}` makes it anew" in done.stdout
        assert "Traceback" not in done.stdout
        path.write_bytes(whole)
    assert not (finished.folder / "executed").exists()


def test_a_yaml_file_is_neither_a_bomb_nor_ambiguous(tmp_path: Path) -> None:
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    for text, message in (
        ("\n".join(bomb), "has more than 1,000,000 values; write them out without aliases"),
        ("a: &a [*a]", "has more than 1,000,000 values"),
        ("threads: 1\nthreads: 2", 'line 2, column 1 is not YAML: found duplicate key "threads"'),
        ("a: " + "[" * 20_000, "is nested too deeply to be read"),
        ("a: !!python/object/apply:os.mkdir [executed]", "is not YAML: could not determine a constructor for the tag"),
    ):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(ParamsError, match=re.escape(message)):
            read_yaml(tmp_path / "params.yaml")
    assert not Path("executed").exists()
