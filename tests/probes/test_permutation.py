import numpy as np
import pytest
import torch

from mixbench.errors import InvalidInputError
from mixbench.probes import PixelPermutation


@pytest.mark.parametrize("side", [8, 28, 32])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_restoring_undoes_shuffling_and_all_channels_move_alike(side: int, seed: int) -> None:
    images = torch.arange(2 * 3 * side * side).view(2, 3, side, side).float()
    permutation = PixelPermutation.everywhere(side, side, seed=seed)
    shuffled = permutation.shuffled(images)
    assert torch.equal(permutation.restored(shuffled), images)
    assert not torch.equal(shuffled, images)
    assert torch.equal(shuffled[1, 2] - shuffled[0, 0], torch.full((side, side), 5.0 * side * side))
    assert sorted(permutation.sources) == list(range(side * side))


def test_the_bits_are_those_of_pcg64_alone() -> None:
    raw = np.random.PCG64(np.random.SeedSequence([7, 2**20])).random_raw(64) >> np.uint64(11)
    expected = sorted(range(64), key=lambda position: int(raw[position]))
    assert PixelPermutation.everywhere(8, 8, seed=7).sources.tolist() == expected


@pytest.mark.parametrize(("side", "tile"), [(8, 2), (8, 4), (28, 8), (7, 4)])
def test_no_pixel_leaves_its_tile(side: int, tile: int) -> None:
    sources = PixelPermutation.within_tiles(side, side, tile=tile, seed=0).sources
    target = np.arange(side * side)
    assert np.array_equal(sources // side // tile, target // side // tile)
    assert np.array_equal(sources % side // tile, target % side // tile)
    assert sorted(sources) == target.tolist()


def test_one_tile_is_the_global_permutation() -> None:
    within, everywhere = PixelPermutation.within_tiles(8, 8, tile=8, seed=3), PixelPermutation.everywhere(8, 8, seed=3)
    assert np.array_equal(within.sources, everywhere.sources)


def test_a_fraction_moves_no_more_pixels_than_it_says_and_larger_ones_contain_smaller_ones() -> None:
    moved = []
    for fraction in (0.25, 0.5, 1.0):
        sources = PixelPermutation.of_fraction(8, 8, fraction=fraction, seed=0).sources
        moved.append(set(np.flatnonzero(sources != np.arange(64)).tolist()))
        assert fraction * 64 * 0.8 < len(moved[-1]) <= fraction * 64
    order = np.argsort(np.random.PCG64(np.random.SeedSequence([0, 2**20 + 1])).random_raw(64) >> np.uint64(11))
    assert moved[0] <= set(order[:16].tolist())
    assert moved[1] <= set(order[:32].tolist())


def test_displacements_are_measured_by_brute_force() -> None:
    permutation = PixelPermutation.everywhere(8, 8, seed=1)
    found = permutation.displacements()
    for position in range(64):
        image = torch.zeros(1, 1, 8, 8)
        image.view(-1)[position] = 1
        ((row, column),) = permutation.shuffled(image)[0, 0].nonzero().tolist()
        assert found[position] == max(abs(row - position // 8), abs(column - position % 8))


def test_a_seed_that_moves_nothing_is_refused() -> None:
    outcomes = []
    for seed in range(8):
        try:
            PixelPermutation.everywhere(1, 2, seed=seed)
            outcomes.append(True)
        except InvalidInputError as error:
            assert f"permutation seed {seed} moves no pixel of 1x2 images" in str(error)  # noqa: PT017 - either may be
            outcomes.append(False)
    assert set(outcomes) == {True, False}
