from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mixbench.datasets.image_folder import ImageFolderSource
from mixbench.errors import DatasetError

Encode = Callable[..., bytes]


def fill(folder: Path, names: list[str], photos: np.ndarray, png: Encode) -> None:
    for name, photo in zip(names, photos, strict=False):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(photo))


@pytest.mark.parametrize("prefix", ["", "test/"], ids=["classes alone", "split folders"])
def test_images_are_read_class_by_class_in_name_order(
    tmp_path: Path, photos: np.ndarray, png: Encode, prefix: str
) -> None:
    fill(tmp_path, [f"{prefix}{name}" for name in ("dog/b.png", "dog/a.PNG", "cat/z.bmp")], photos, png)
    examples = ImageFolderSource(tmp_path).read(name="pets", split="test")
    assert (examples.images == photos[[2, 1, 0]].transpose(0, 3, 1, 2)).all()
    assert examples.labels.tolist() == [0, 1, 1]
    assert examples.class_names == ("cat", "dog")


def test_each_split_has_its_own_images(tmp_path: Path, photos: np.ndarray, png: Encode) -> None:
    fill(tmp_path, ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png"], photos, png)
    source = ImageFolderSource(tmp_path)
    assert len(source.read(name="pets", split="train")) == 2
    assert (source.read(name="pets", split="test").images[0] == photos[2].transpose(2, 0, 1)).all()
    assert source.signature("train") != source.signature("test")


def test_a_class_that_one_split_lacks_does_not_shift_the_others(
    tmp_path: Path, photos: np.ndarray, png: Encode
) -> None:
    fill(tmp_path, ["train/ant/1.png", "train/bee/1.png", "train/cat/1.png", "test/cat/1.png"], photos, png)
    examples = ImageFolderSource(tmp_path).read(name="pets", split="test")
    assert examples.class_names == ("ant", "bee", "cat")
    assert examples.labels.tolist() == [2]


def test_hidden_and_foreign_files_are_passed_over(tmp_path: Path, photos: np.ndarray, png: Encode) -> None:
    fill(tmp_path, ["cat/1.png", "cat/.2.png", "cat/notes.txt", ".git/3.png", "4.png"], photos, png)
    examples = ImageFolderSource(tmp_path).read(name="pets", split="test")
    assert (len(examples), examples.class_names) == (1, ("cat",))


def test_the_signature_follows_names_and_content(tmp_path: Path, photos: np.ndarray, png: Encode) -> None:
    fill(tmp_path / "a", ["cat/1.png", "dog/1.png"], photos, png)
    fill(tmp_path / "b", ["cat/1.png", "dog/1.png"], photos, png)
    fill(tmp_path / "c", ["cat/1.png", "emu/1.png"], photos, png)
    fill(tmp_path / "d", ["cat/1.png", "dog/1.png"], photos[1:], png)
    first, twin, renamed, changed = (ImageFolderSource(tmp_path / name).signature("test") for name in "abcd")
    assert first == twin
    assert len({first, renamed, changed}) == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"has no images for split 'test': expected test/CLASS/\*\.png or CLASS/\*\.png"),
        (["train/cat/1.png"], r"has no split 'test', only train"),
        (["test/1.png"], r"has no images for split 'test'"),
    ],
    ids=["empty", "other split", "no classes"],
)
def test_a_folder_of_another_layout_is_refused(
    tmp_path: Path, photos: np.ndarray, png: Encode, files: list[str], message: str
) -> None:
    fill(tmp_path, files, photos, png)
    with pytest.raises(DatasetError, match=message):
        ImageFolderSource(tmp_path).signature("test")


def test_a_broken_image_is_named(tmp_path: Path, photos: np.ndarray, png: Encode) -> None:
    fill(tmp_path, ["cat/1.png", "cat/2.png"], photos, png)
    (tmp_path / "cat" / "2.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"2\.png is not a readable image"):
        ImageFolderSource(tmp_path).read(name="pets", split="test")


def test_an_image_that_cannot_be_opened_is_named(tmp_path: Path, photos: np.ndarray, png: Encode) -> None:
    fill(tmp_path, ["cat/1.png"], photos, png)
    (tmp_path / "cat" / "2.png").mkdir()
    source = ImageFolderSource(tmp_path)
    with pytest.raises(DatasetError, match=r"cannot read .*2\.png: Is a directory"):
        source.signature("test")
    with pytest.raises(DatasetError, match=r"cannot read .*2\.png: Is a directory"):
        source.read(name="pets", split="test")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot read the folder .*nowhere"):
        ImageFolderSource(tmp_path / "nowhere").signature("test")
