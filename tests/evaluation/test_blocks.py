import itertools

import pytest

from mixbench.evaluation import BLOCK_SIZE, block_seed
from mixbench.evaluation.blocks import blocks


@pytest.mark.parametrize(
    ("run_seed", "attack", "block", "seed"),
    [
        (0, "autoattack", 0, 1084434496),
        (0, "autoattack", 1, 650795441),
        (1, "autoattack", 0, 254686271),
        (0, "pgd", 0, 706133325),
    ],
)
def test_the_seed_of_a_block_never_changes(run_seed: int, attack: str, block: int, seed: int) -> None:
    """Another seed is another number: records made before could not be repeated."""
    assert block_seed(run_seed, attack, block) == seed


def test_seeds_differ_by_run_attack_and_block_and_fit_every_generator() -> None:
    cases = itertools.product(range(10), ("pgd", "autoattack", "fgsm"), range(20))
    seeds = [block_seed(run_seed, attack, block) for run_seed, attack, block in cases]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize("n", [1, 6, 7, 8, 21, 22])
def test_blocks_cover_every_example_once_and_in_order(n: int) -> None:
    found = list(blocks(n, block_size=7))
    assert [position for block in found for position in range(block.start, block.stop)] == list(range(n))
    assert [block.index for block in found] == list(range(len(found)))
    assert all(block.stop - block.start == 7 for block in found[:-1])
    assert 1 <= found[-1].stop - found[-1].start <= 7


def test_a_block_holds_a_thousand_examples_by_default() -> None:
    assert BLOCK_SIZE == 1000
