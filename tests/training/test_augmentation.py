from dataclasses import replace

import numpy as np
import pytest
import torch

from mixbench.training import RandAugment, Recipe
from mixbench.training.augmentation import augmented, draw, shifted
from mixbench.training.rand_augment import OPERATIONS


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _shifted_slowly(images: np.ndarray, reach: int, shifts: np.ndarray) -> np.ndarray:
    n, _, height, width = images.shape
    result = np.zeros_like(images)
    for example in range(n):
        for row in range(height):
            for column in range(width):
                from_row, from_column = row + shifts[0, example] - reach, column + shifts[1, example] - reach
                if 0 <= from_row < height and 0 <= from_column < width:
                    result[example, :, row, column] = images[example, :, from_row, from_column]
    return result


@pytest.mark.parametrize("reach", [1, 2, 5])
def test_images_are_shifted_as_a_slow_loop_does(reach: int) -> None:
    images = torch.rand(20, 3, 5, 7, generator=_generator()) + 0.1
    shifts = torch.randint(0, 2 * reach + 1, (2, 20), generator=_generator(9))
    expected = _shifted_slowly(images.numpy(), reach, shifts.numpy())
    assert np.array_equal(shifted(images, shifts, reach=reach).numpy(), expected)


def test_all_shifts_up_to_the_reach_occur_about_equally_often(tiny: Recipe) -> None:
    images = torch.zeros(9000, 1, 5, 5)
    images[:, 0, 2, 2] = 1
    draws = draw(replace(tiny, max_shift=1), (9000, 1, 5, 5), _generator())
    where = augmented(images, tiny, draws).mean(0)[0]
    assert torch.allclose(where[1:4, 1:4], torch.full((3, 3), 1 / 9), atol=0.014)
    assert where.sum() == pytest.approx(1)


def test_a_recipe_that_does_nothing_draws_nothing(tiny: Recipe) -> None:
    images, generator = torch.rand(2, 1, 3, 3), _generator()
    recipe = replace(tiny, max_shift=0)
    draws = draw(recipe, (2, 1, 3, 3), generator)
    assert draws.tensors() == ()
    assert augmented(images, recipe, draws) is images
    assert torch.equal(generator.get_state(), _generator().get_state())


def test_about_half_of_the_images_are_mirrored(tiny: Recipe) -> None:
    images = torch.rand(1000, 2, 3, 4, generator=_generator())
    recipe = replace(tiny, max_shift=0, flip=True)
    flipped = augmented(images, recipe, draw(recipe, (1000, 2, 3, 4), _generator(1)))
    mirrored = [torch.equal(after, before.flip(2)) for before, after in zip(images, flipped, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(images, flipped, strict=True)]
    assert all(one is not other for one, other in zip(mirrored, kept, strict=True))
    assert 430 <= sum(mirrored) <= 570


def test_the_start_of_a_search_is_uniform_for_linf_and_normal_for_l2(tiny_linf: Recipe, tiny_l2: Recipe) -> None:
    linf, l2 = (draw(recipe, (500, 1, 8, 8), _generator()).start for recipe in (tiny_linf, tiny_l2))
    assert linf is not None
    assert l2 is not None
    assert (linf.min() >= 0, linf.max() <= 1) == (True, True)
    assert (float(linf.mean()), float(linf.std())) == pytest.approx((0.5, 12**-0.5), abs=0.01)
    assert (float(l2.mean()), float(l2.std())) == pytest.approx((0, 1), abs=0.02)


def test_every_operation_is_drawn_about_equally_often_both_ways(tiny: Recipe) -> None:
    recipe = replace(tiny, max_shift=0, rand_augment=RandAugment(operations=2, magnitude=9))
    draws = draw(recipe, (7000, 3, 8, 8), _generator())
    assert draws.operations is not None
    assert draws.negative is not None
    counts = torch.bincount(draws.operations.flatten(), minlength=len(OPERATIONS))
    assert (len(counts), int(counts.sum())) == (14, 14000)
    assert (int(counts.min()) > 850, int(counts.max()) < 1150) == (True, True)
    assert float(draws.negative.float().mean()) == pytest.approx(0.5, abs=0.02)


def test_rounds_of_operations_follow_each_other(tiny: Recipe) -> None:
    recipe = replace(tiny, max_shift=0, rand_augment=RandAugment(operations=2, magnitude=30))
    images = torch.rand(28, 3, 8, 8, generator=_generator())
    both = draw(recipe, (28, 3, 8, 8), _generator(3))
    assert both.operations is not None
    assert both.negative is not None
    step = images
    for number in range(2):
        one = replace(both, operations=both.operations[number][None], negative=both.negative[number][None])
        step = augmented(step, recipe, one)
    assert torch.equal(step, augmented(images, recipe, both))
