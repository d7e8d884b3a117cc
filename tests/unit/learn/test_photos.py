"""Photos of every kind come out as upright arrays; folders, archives and tables are taken in, or refused whole."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

from learn.data.photos import archives
from learn.data.photos.archives import PhotoCollection, gather, tree_digest
from learn.data.photos.decode import Fit, PhotoError, find_classes, open_photo, to_array
from learn.data.photos.folders import PhotoFolder, image_folder
from learn.errors import DataError

ORIENTATION = 0x0112  # EXIF's tag
RED, BLUE = (250, 10, 10), (10, 10, 250)


def halves(width: int = 64, height: int = 32) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.jpg", "RGB"), ("cmyk.jpg", "CMYK"), ("a.png", "RGB"), ("palette.png", "P"), ("alpha.png", "RGBA"),
        ("a.webp", "RGB"), ("alpha.webp", "RGBA"), ("a.bmp", "RGB"), ("a.gif", "RGB"),
    ],
)  # fmt: skip
def test_a_photo_of_any_format_comes_out_in_colour(tmp_path: Path, name: str, mode: str) -> None:
    image = open_photo(save(halves().convert(mode, palette=Image.Palette.ADAPTIVE), tmp_path / name))
    assert image.mode == "RGB"
    pixels = np.asarray(image).astype(int)
    assert np.abs(pixels[16, 8] - RED).max() < 30
    assert np.abs(pixels[16, 56] - BLUE).max() < 30


def test_grey_comes_out_with_one_channel_or_three(tmp_path: Path) -> None:
    path = save(Image.new("L", (20, 20), 77), tmp_path / "a.png")
    assert np.unique(to_array(open_photo(path, "RGB"), Fit(8))).tolist() == [77]
    assert to_array(open_photo(path, "L"), Fit(8)).shape == (1, 8, 8)
    assert to_array(open_photo(save(halves(), tmp_path / "b.png"), "L"), Fit(8)).shape == (1, 8, 8)


def test_of_16_bits_the_upper_8_are_kept(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.full((9, 9), 200 * 256 + 31, np.uint16)), tmp_path / "a.png")
    assert np.unique(to_array(open_photo(path), Fit(9))).tolist() == [200]


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    path = save(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), tmp_path / "a.png")
    assert np.unique(to_array(open_photo(path), Fit(9))).tolist() == [255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_photo_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turned = open_photo(save(halves(), tmp_path / "a.jpg", exif=exif, quality=95))
    assert turned.size == ((64, 32) if orientation <= 4 else (32, 64))
    first = turned.getpixel((4, 4))
    assert isinstance(first, tuple)
    assert (first[0] > 128) == (orientation in (1, 4, 5, 6)), "red where the camera's left is"


def test_of_an_animation_the_first_picture_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 9), RED), Image.new("RGB", (9, 9), BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_photo(tmp_path / "a.gif").getpixel((0, 0)) == RED


def test_what_is_no_whole_photo_is_refused_with_the_reason(tmp_path: Path) -> None:
    whole = save(halves(), tmp_path / "a.jpg").read_bytes()
    for name, content, reason in (
        ("cut.jpg", whole[: len(whole) // 2], "(?i)truncated"),
        ("text.jpg", b"hello", "no picture of these formats"),
        ("empty.png", b"", "no picture of these formats"),
        ("picture.jpg", b"II*\0" + bytes(60), "no picture of these formats"),  # TIFF: a decoder we do not start
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PhotoError, match=reason):
            open_photo(tmp_path / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three photos; one has a folder within, a text file and a hidden file."""
    rng = np.random.default_rng(0)
    for name in ("dog/b.jpg", "dog/a.PNG", "dog/old/c.jpg", "cat/1.jpg", "cat/2.webp", "cat/10.jpg"):
        pixels = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
        save(Image.fromarray(pixels), tmp_path / "pets" / name)
    (tmp_path / "pets/dog/notes.txt").write_text("rex")
    (tmp_path / "pets/dog/.hidden.jpg").write_text("x")
    return tmp_path / "pets"


def test_the_folder_by_hand_and_torchvision_s_agree(folder: Path) -> None:
    (folder / "dog/.hidden.jpg").unlink()
    transform = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])  # the course's
    by_hand, by_torchvision = PhotoFolder(folder, transform), image_folder(folder, transform)
    plain = ImageFolder(str(folder), transform)
    assert find_classes(folder) == ("cat", "dog")
    assert list(by_hand.classes) == by_torchvision.classes == plain.classes
    assert by_hand.class_to_idx == plain.class_to_idx
    assert len(by_hand) == len(by_torchvision) == len(plain) == 6
    for index in range(len(plain)):
        mine, theirs, plainly = by_hand[index], by_torchvision[index], plain[index]
        assert mine[1] == theirs[1] == plainly[1]
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[0], plainly[0])
    own = torch.from_numpy(to_array(open_photo(by_hand.samples[0][0]), Fit(16))).div(255)
    assert torch.equal(own, by_hand[0][0]), "and the transform stage makes the same of them"
    with pytest.raises(FileNotFoundError, match="no sub-folders"):
        PhotoFolder(folder / "cat")


@pytest.mark.parametrize("size", [(375, 500), (31, 20), (16, 16), (333, 17)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_middle_is_cut_out_as_torchvision_does(size: tuple[int, int], interpolation: Any) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(*size, 3)).astype(np.uint8))
    resize = transforms.Resize(19, transforms.InterpolationMode(interpolation))
    expected = transforms.Compose([resize, transforms.CenterCrop(16), transforms.PILToTensor()])(image)
    assert to_array(image, Fit(16, 19, interpolation)).tolist() == expected.tolist()
    with pytest.raises(PhotoError, match="it is too long, 40,000×1 pixels, to be resized before a crop"):
        to_array(Image.new("RGB", (40_000, 1)), Fit(224, 256))


# ---- taking photos in


def test_a_folder_and_its_archives_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as packed:
        for path in folder.rglob("*"):
            packed.write(path, path.relative_to(folder.parent))
    with tarfile.open(tmp_path / "pets.tar.gz", "w:gz") as packed_too:
        packed_too.add(folder, "pets")
    digests = set()
    for number, path in enumerate((folder, tmp_path / "pets.zip", tmp_path / "pets.tar.gz")):
        into = tmp_path / f"into{number}"
        into.mkdir()
        assert gather(path, into) == PhotoCollection(("cat", "dog"), 6, 0, ignored=2)
        digests.add(tree_digest(into))
        assert sorted(p.name for p in (into / "dog").iterdir()) == ["a.PNG", "b.jpg", "old"]
    assert len(digests) == 1


def test_names_in_a_zip_are_utf_8_also_where_it_does_not_say_so(folder: Path, tmp_path: Path) -> None:
    """As Unix's zip writes them."""
    with zipfile.ZipFile(tmp_path / "ascii.zip", "w") as packed:
        packed.write(folder / "dog/b.jpg", "dog/b.jpg")
        packed.write(folder / "dog/b.jpg", "K__se/b.jpg")
    for encoding, expected in (("utf-8", "Käse"), ("cp437", "K__se".replace("__", "ä_"))):
        name = b"K" + "ä".encode(encoding).ljust(2, b"_") + b"se"
        (tmp_path / "some.zip").write_bytes((tmp_path / "ascii.zip").read_bytes().replace(b"K__se", name))
        assert gather(tmp_path / "some.zip", tmp_path / encoding).classes == (expected, "dog")


def test_a_folder_with_parts_has_the_classes_of_both(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "train")
    (tmp_path / "all").mkdir()
    (tmp_path / "train").rename(tmp_path / "all/train")
    save(halves(), tmp_path / "all/test/cat/1.jpg")
    (tmp_path / "all/test/bird").mkdir()
    found = gather(tmp_path / "all", tmp_path / "into")
    assert found == PhotoCollection(("bird", "cat", "dog"), 6, 1, ignored=2)
    (tmp_path / "all/valid").mkdir()
    with pytest.raises(DataError, match="valid/ beside train/"):
        gather(tmp_path / "all", tmp_path / "into2")


def test_a_table_names_files_and_labels(folder: Path, tmp_path: Path) -> None:
    table = folder / "labels.csv"
    table.write_text("file,label,part\ndog/b.jpg,good,train\ncat/1.jpg,bad dog,train\ncat/2.webp,good,test\n")
    assert gather(table, tmp_path / "into") == PhotoCollection(("bad dog", "good"), 2, 1, 0)
    assert (tmp_path / "into/test/good/cat/2.webp").is_file()
    table.write_text("file,label\ndog/b.jpg,good\ncat/1.jpg,bad\n")
    assert gather(table, tmp_path / "into2") == PhotoCollection(("bad", "good"), 2, 0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na,b\n", "has the columns name, label; its first line must be file,label"),
        ("file,label\n../x.jpg,a\n", "line 2: the file '../x.jpg' leads out of its folder"),
        ("file,label\n/x.jpg,a\n", "line 2: the file '/x.jpg' is an absolute path"),
        ("file,label\nx.jpg,a\n", "line 2: the file 'x.jpg' is not there"),
        ("file,label\ncat/1.jpg,../a\n", "the label '../a' cannot be a folder"),
        ("file,label,part\ncat/1.jpg,a,tset\n", "the part is 'tset'; it must be train or test"),
        ("file,label\ncat/1.jpg,a\n", "1 photos for training in 1 classes"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(folder: Path, tmp_path: Path, text: str, message: str) -> None:
    (folder / "labels.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        gather(folder / "labels.csv", tmp_path / "into")
    assert message in str(caught.value)


def test_a_folder_that_is_no_dataset_is_refused(folder: Path, tmp_path: Path) -> None:
    for path, message in (
        (folder / "cat", "has no sub-folders of photos"),
        (tmp_path / "nothing", "is not there; it must be a folder, a zip or tar archive, or a CSV table"),
    ):
        with pytest.raises(DataError, match=message):
            gather(path, tmp_path / "into")
    (folder / "cat/link.jpg").symlink_to(save(halves(), tmp_path / "secret.jpg"))
    with pytest.raises(DataError, match="a link that leads out of"):
        gather(folder, tmp_path / "into")


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for info, content in members:
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../evil.jpg", "leads out of its folder"),
        ("/tmp/evil.jpg", "is an absolute path"),
        ("cat/../../evil.jpg", "leads out of its folder"),
        ("C:\\evil.jpg", "is an absolute path"),
        ("cat\\..\\..\\evil.jpg", "leads out of its folder"),
    ],
)
def test_an_archive_that_leaves_its_folder_is_refused_whole(tmp_path: Path, name: str, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("cat/good.jpg", b"x")
        packed.writestr(name, b"x")
    tar_of(tmp_path / "a.tgz", (tarfile.TarInfo("cat/good.jpg"), b"x"), (tarfile.TarInfo(name), b"x"))
    for archive in ("a.zip", "a.tgz"):
        (tmp_path / "work").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=message):
            gather(tmp_path / archive, tmp_path / "work/into")
        assert list((tmp_path / "work").rglob("*")) == [tmp_path / "work/into"], "nothing is kept"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_an_archive_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = tar_of(tmp_path / "a.tgz", (link("cat/passwd.jpg", "/etc/passwd", kind), b""))
    with pytest.raises(DataError, match="is a link or a device"):
        gather(archive, tmp_path / "into")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        info = zipfile.ZipInfo("cat/passwd.jpg")
        info.external_attr = 0o120777 << 16
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is a link or a device"):
        gather(tmp_path / "a.zip", tmp_path / "into")


def test_an_archive_that_explodes_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "SMALL", 2**20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("cat/bomb.bmp", bytes(8 * 2**20))
    tar_of(tmp_path / "a.tgz", (tarfile.TarInfo("cat/bomb.bmp"), bytes(8 * 2**20)))
    for name in ("a.zip", "a.tgz"):
        with pytest.raises(DataError, match="would become more than"):
            gather(tmp_path / name, tmp_path / "into")


def test_an_archive_of_many_empty_members_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FEW", 500)
    names = [f"cat/{number}.jpg" for number in range(2000)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name in names:
            packed.writestr(name, b"")
    tar_of(tmp_path / "a.tgz", *((tarfile.TarInfo(name), b"") for name in names))
    for name in ("a.zip", "a.tgz"):
        with pytest.raises(DataError, match="more than 500 members with 0 bytes in all are no photos"):
            gather(tmp_path / name, tmp_path / "into")
    tar_of(tmp_path / "b.tgz", *((tarfile.TarInfo(name), bytes(64)) for name in [*names[::2], "dog/1.jpg"]))
    assert gather(tmp_path / "b.tgz", tmp_path / "into").train == 1001, "many are fine if they hold something"


def test_a_tar_whose_name_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**40
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(DataError, match="a member's name or attributes take 1,099,511,627,776 bytes"):
        gather(tmp_path / "a.tar", tmp_path / "into")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (b"caf\xe9", "is not UTF-8"),
        (b"a\nb", "has the control character \\n"),
        (b"a\x1b[2Jb", "has the control character \\x1b"),
        ("a\u202eb".encode(), "has the control character \\u202e"),
    ],
)
def test_a_name_that_no_page_can_show_is_refused(folder: Path, tmp_path: Path, name: bytes, problem: str) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            gather(path, tmp_path / "into")
        return str(caught.value)

    text = os.fsdecode(name)
    photo = folder / "dog/b.jpg"
    for path, kind in ((folder / f"cat/{text}.jpg", "photo"), (folder / text / "b.jpg", "class")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo.read_bytes())
        with tarfile.open(tmp_path / f"{kind}.tgz", "w:gz") as packed:
            packed.add(folder, "pets")
        for source in (folder, tmp_path / f"{kind}.tgz"):
            message = refused(source)
            assert problem in message
            assert message.isprintable()
            assert "rename it" in message
        path.unlink()
    path.parent.rmdir()
    if "UTF" not in problem:
        (folder / "labels.csv").write_text(f'file,label\ncat/1.jpg,"{text}"\ncat/2.webp,a\n')
        assert problem in refused(folder / "labels.csv")
    (folder / "labels.csv").write_bytes(b"file,label\ncat/1.jpg,caf\xe9\ncat/2.webp,a\n")
    assert "must be a table in CSV, saved as UTF-8" in refused(folder / "labels.csv")


def test_names_of_every_language_are_taken(folder: Path, tmp_path: Path) -> None:
    """With joiners, and with the narrow space that a Mac writes into the names of screenshots."""
    (folder / "dog").rename(folder / "گربه\u200cها")
    (folder / "cat/1.jpg").rename(folder / "cat/9.41\u202fAM 👩\u200d🚀.jpg")
    assert gather(folder, tmp_path / "into").classes == ("cat", "گربه\u200cها")


def test_a_test_part_without_photos_or_with_classes_of_its_own_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "labels.csv").write_text("file,label,part\ncat/1.jpg,a,train\ncat/2.webp,b,train\n")
    with pytest.raises(DataError, match="has no photo for testing: put some there, or leave out part test in"):
        gather(folder / "labels.csv", tmp_path / "into")
    (folder / "labels.csv").write_text("file,label,part\ncat/1.jpg,a,test\ncat/2.webp,b,test\n")
    with pytest.raises(DataError, match="has 0 photos for training in 2 classes"):
        gather(folder / "labels.csv", tmp_path / "into")
    (tmp_path / "all/test").mkdir(parents=True)
    folder.rename(tmp_path / "all/train")
    with pytest.raises(DataError, match="has no photo for testing: put some there, or leave out the folder test/"):
        gather(tmp_path / "all", tmp_path / "into")
    save(halves(), tmp_path / "all/test/bird/1.jpg")
    with pytest.raises(DataError, match="has photos of bird for testing and none for training"):
        gather(tmp_path / "all", tmp_path / "into")


def test_an_archive_whose_members_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as packed:
        for name in ("a/0.png", "a/0.png/b.png"):
            packed.writestr(name, b"x")
    late = tarfile.TarInfo("a/0.png")
    late.mtime = 1e30  # as a pax header may say
    with tarfile.open(tmp_path / "late.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(late)
    for archive in ("both.zip", "late.tar"):
        with pytest.raises(DataError, match=archive):
            gather(tmp_path / archive, tmp_path / "into")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK not really")
    with pytest.raises(DataError, match="it is none, or is cut off; it must be a whole zip or tar archive"):
        gather(tmp_path / "a.zip", tmp_path / "into")
