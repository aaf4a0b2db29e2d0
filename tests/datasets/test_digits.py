import numpy as np
import pytest
from sklearn.datasets import load_digits

from mixbench.datasets import CATALOGUE, Examples
from mixbench.datasets.digits import read_digits


@pytest.fixture(scope="module")
def test_digits() -> Examples:
    return read_digits(split="test")


@pytest.fixture(scope="module")
def train_digits() -> Examples:
    return read_digits(split="train")


def test_the_sizes_are_fixed(train_digits: Examples, test_digits: Examples) -> None:
    assert (len(train_digits), len(test_digits)) == (1437, 360)
    assert test_digits.images.shape == (360, 1, 8, 8)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_fingerprints_are_those_of_the_catalogue(split: str) -> None:
    assert read_digits(split=split).fingerprint == CATALOGUE["digits"].splits[split].fingerprint


def test_the_two_splits_together_are_the_whole_set(train_digits: Examples, test_digits: Examples) -> None:
    """As multisets of (pixels, label): nothing is lost, nothing is in both."""
    levels, targets = load_digits(return_X_y=True)
    expected = sorted(
        (bytes(round(level * 255 / 16) for level in image), int(label))
        for image, label in zip(levels.tolist(), targets, strict=True)
    )
    found = sorted(
        (image.tobytes(), int(label))
        for part in (train_digits, test_digits)
        for image, label in zip(part.images, part.labels, strict=True)
    )
    assert found == expected


def test_no_image_is_in_both_splits(train_digits: Examples, test_digits: Examples) -> None:
    train, test = ({image.tobytes() for image in part.images} for part in (train_digits, test_digits))
    assert not train & test


def test_each_class_gives_its_share_by_largest_remainder(test_digits: Examples) -> None:
    sizes = np.bincount(load_digits(return_X_y=True)[1])
    counts = np.bincount(test_digits.labels)
    exact = sizes * 360 / 1797
    rounded_up = counts > exact
    assert counts.sum() == 360
    assert (np.abs(counts - exact) < 1).all()
    assert (exact % 1)[rounded_up].min() >= (exact % 1)[~rounded_up].max()


def test_every_prefix_of_the_test_set_is_about_balanced(test_digits: Examples) -> None:
    for n in range(10, 341, 10):
        assert set(np.bincount(test_digits.labels[:n])) == {n // 10}


def test_the_training_set_keeps_the_original_order(train_digits: Examples) -> None:
    levels, _ = load_digits(return_X_y=True)
    position = {bytes(round(level * 255 / 16) for level in image): n for n, image in enumerate(levels.tolist())}
    positions = [position[image.tobytes()] for image in train_digits.images]
    assert positions == sorted(positions)


def test_grey_levels_cover_the_whole_range(test_digits: Examples) -> None:
    assert sorted(np.unique(test_digits.images)) == [round(level * 255 / 16) for level in range(17)]
