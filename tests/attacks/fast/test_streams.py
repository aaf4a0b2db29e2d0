import itertools

import pytest
import torch
from scipy import stats

from mixbench.attacks.fast.streams import example_keys, normal, uniform

IMAGES = torch.rand((32, 3, 5, 5), generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
LABELS = torch.arange(32) % 4
KEYS = example_keys(IMAGES, LABELS, seed=0)
COUNTERS = torch.arange(32)


def test_numbers_are_uniform() -> None:
    numbers = uniform(KEYS, COUNTERS, 10_000).flatten()
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 0.01


def test_normal_numbers_are_normal() -> None:
    numbers = normal(KEYS, COUNTERS, 10_000).flatten()
    assert bool(torch.isfinite(numbers).all())
    assert stats.kstest(numbers.numpy(), "norm").pvalue > 0.01


def test_streams_of_neighbouring_keys_counters_and_lanes_are_uncorrelated() -> None:
    size = 20_000
    near = torch.tensor([7, 8, 9])
    streams = [
        *uniform(near, torch.zeros_like(near), size),
        *uniform(torch.full_like(near, 7), torch.tensor([1, 2, 3]), size),
        *(uniform(near[:1], near[:1] * 0, size, lane=lane)[0] for lane in (1, 2, 3)),
    ]
    correlations = torch.corrcoef(torch.stack(streams)).fill_diagonal_(0)
    assert float(correlations.abs().max()) < 5 / size**0.5
    shifted = [float(torch.corrcoef(torch.stack([stream[1:], stream[:-1]]))[0, 1]) for stream in streams]
    assert max(map(abs, shifted)) < 5 / size**0.5


def test_no_two_lanes_draw_the_same() -> None:
    drawn = [uniform(KEYS, COUNTERS, 4, lane=lane) for lane in range(8)]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))


@pytest.mark.parametrize("draw", [uniform, normal])
def test_the_place_in_a_batch_plays_no_part(draw) -> None:  # noqa: ANN001 - either of the two
    whole = draw(KEYS, COUNTERS, 75)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(draw(KEYS[order], COUNTERS[order], 75), whole[order])
    assert torch.equal(draw(KEYS[5:6], COUNTERS[5:6], 75), whole[5:6])
    assert torch.equal(example_keys(IMAGES[order], LABELS[order], seed=0), KEYS[order])


def test_keys_tell_images_labels_and_seeds_apart() -> None:
    mirrored = IMAGES.flip(3)
    keys = [
        KEYS,
        example_keys(mirrored, LABELS, seed=0),
        example_keys(IMAGES, LABELS + 1, seed=0),
        example_keys(IMAGES, LABELS, seed=1),
    ]
    assert len(torch.cat(keys).unique()) == 4 * 32


def test_rounding_of_the_pixels_does_not_change_the_key() -> None:
    assert torch.equal(example_keys(IMAGES.double(), LABELS, seed=0), KEYS)


def test_the_numbers_are_those_of_the_first_release() -> None:
    """Whoever repeats a published run must draw what it drew."""
    image = torch.arange(12).view(1, 3, 2, 2) / 255
    key = example_keys(image, torch.tensor([3]), seed=5)
    assert key.tolist() == [-2596010154248547516]
    counter = torch.tensor([2])
    assert uniform(key, counter, 3).flatten().tolist() == [0.2353020204570696, 0.2884177240353907, 0.9932305741143164]
    assert uniform(key, counter, 2, lane=3).flatten().tolist() == [0.46768588915059073, 0.7700262123471077]
    assert normal(key, counter, 2).flatten().tolist() == pytest.approx(
        [0.7318323273595149, 0.8125666917579657], rel=1e-12
    )
