import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from mixbench.datasets import Examples
from mixbench.errors import DatasetError, InvalidInputError

Make = Callable[[Sequence[int]], Examples]


def test_fingerprint_is_the_documented_hash(make_examples: Make) -> None:
    examples = make_examples([0, 1, 1])
    content = b"uint8 (3, 1, 1, 2)" + bytes(range(6)) + b"".join(n.to_bytes(8, "little") for n in (0, 1, 1))
    assert examples.fingerprint == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("field", ["images", "labels"])
def test_fingerprint_changes_with_the_content(make_examples: Make, field: str) -> None:
    examples = make_examples([0, 1, 1])
    assert replace(examples, **{field: getattr(examples, field)[::-1]}).fingerprint != examples.fingerprint


def test_fingerprint_ignores_names_and_memory_layout(make_examples: Make) -> None:
    examples = make_examples([0, 1, 1])
    other = replace(examples, name="other", subset="part", images=np.asfortranarray(examples.images))
    assert other.fingerprint == examples.fingerprint


def test_take_keeps_the_order_asked_for_and_the_original_positions(make_examples: Make) -> None:
    first = make_examples([0, 1, 2, 2]).take(np.array([3, 1, 0]), subset="part")
    second = first.take(np.array([2, 0]), subset="smaller")
    assert first.labels.tolist() == [2, 1, 0]
    assert second.indices.tolist() == [0, 3]
    assert second.images.ravel().tolist() == [0, 1, 6, 7]
    assert (second.subset, second.num_classes) == ("smaller", 3)


@pytest.mark.parametrize("position", [-1, 3])
def test_take_refuses_positions_outside(make_examples: Make, position: int) -> None:
    with pytest.raises(InvalidInputError, match=r"not all in 0 to 2"):
        make_examples([0, 1, 1]).take(np.array([0, position]), subset="part")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1])}, "3 images but 2 labels"),
        ({"labels": np.array([0, 1, 2])}, "labels 0 to 2, expected 0 to 1"),
        ({"labels": np.array([0, 1, -1])}, "labels -1 to 1, expected 0 to 1"),
        ({"images": np.empty((0, 1, 1, 2), np.uint8)}, "has no examples"),
        ({"images": np.ones((3, 1, 1, 2), np.float32)}, "images of float32, expected pixels 0 to 255 as uint8"),
        ({"images": np.ones((3, 1, 1, 2), np.int64)}, "images of int64, expected pixels 0 to 255 as uint8"),
        ({"images": np.ones((3, 1, 2), np.uint8)}, r"images of shape \(3, 1, 2\), expected \(example, channel, height"),
        ({"labels": np.array([0.0, 1.0, 1.0])}, r"labels of float64 and shape \(3,\), expected one integer an example"),
        ({"labels": np.array([[0], [1], [1]])}, r"labels of int64 and shape \(3, 1\), expected one integer"),
        ({"indices": np.array([0.0, 1.0, 2.0])}, "indices of float64"),
    ],
    ids=[
        "too few labels",
        "label too high",
        "label too low",
        "empty",
        "float pixels",
        "wide pixels",
        "no channels",
        "float labels",
        "one-hot labels",
        "float indices",
    ],
)
def test_inconsistent_examples_are_refused(make_examples: Make, change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        replace(make_examples([0, 1, 1]), **change)


def test_repr_does_not_print_pixels(make_examples: Make) -> None:
    assert repr(make_examples([0, 1])) == "Examples(toy test, subset=all, n=2, 1x1x2)"
