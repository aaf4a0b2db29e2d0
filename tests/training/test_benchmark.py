from dataclasses import replace

import pytest
import torch

from mixbench.datasets import Examples
from mixbench.models import ARCHITECTURES, ModelSpec
from mixbench.training import RandAugment, Recipe, time_training
from mixbench.training.benchmark import _Pictures


@pytest.mark.parametrize("kind", ["tiny", "tiny_linf"])
def test_both_ways_train_the_same_network(kind: str, request: pytest.FixtureRequest, train_digits: Examples) -> None:
    recipe: Recipe = request.getfixturevalue(kind)
    spec = ModelSpec.for_dataset(ARCHITECTURES["convmixer_frozen"], "digits", filter_seed=0)
    own, usual = time_training(spec, train_digits, recipe, seed=0, device="cpu", epochs=2)
    assert (own.way, usual.way) == ("mixbench", "DataLoader, float32")
    for one in (own, usual):
        # Ten classes, hardly trained: the loss is about log 10 for both.
        assert 1.5 < one.loss < 3.5
        assert one.seconds > 0
    assert (own.first_seconds is None, usual.first_seconds is None) == (False, True)


def test_the_usual_loop_reads_the_same_pixels(train_digits: Examples, tiny: Recipe) -> None:
    pictures = _Pictures(train_digits, replace(tiny, max_shift=0))
    assert len(pictures) == len(train_digits)
    for index in (0, 17, 89):
        image, label = pictures[index]
        assert torch.equal(image, torch.from_numpy(train_digits.images[index]).float() / 255)
        assert label == train_digits.labels[index]


def test_the_usual_loop_augments_as_the_recipe_says(train_digits: Examples, tiny: Recipe) -> None:
    recipe = replace(tiny, max_shift=2, flip=True, rand_augment=RandAugment(operations=2, magnitude=8))
    names = [type(step).__name__ for step in _Pictures(train_digits, recipe)._transform.transforms]
    assert names == ["RandomCrop", "RandomHorizontalFlip", "RandAugment", "ToTensor"]
