"""Class-balanced choices of examples that depend on a seed and on nothing else."""

import numpy as np
from jaxtyping import Int64

from mixbench.datasets.examples import Examples
from mixbench.errors import InvalidInputError

# Keeps these draws apart from every other stream that is seeded with the same number.
_STREAM = 0x5E1EC7


def balanced_order(labels: Int64[np.ndarray, " example"], *, seed: int) -> Int64[np.ndarray, " example"]:
    """Return all positions in rounds: each round holds one random example of every class that still has one.

    Every prefix therefore counts the classes equally, to within one, as far as their sizes allow. Raises
    InvalidInputError when `seed` is negative.
    """
    if seed < 0:
        raise InvalidInputError(f"seed {seed} is negative: give 0 or a positive integer")
    # Raw 64-bit draws are the only part of a NumPy stream that no release may change.
    draws = np.random.PCG64([seed, _STREAM]).random_raw(len(labels))
    by_class = np.lexsort((draws, labels))
    grouped = labels[by_class]
    rounds = np.empty(len(labels), dtype=np.int64)
    rounds[by_class] = np.arange(len(labels)) - np.searchsorted(grouped, grouped)
    return np.lexsort((draws, rounds)).astype(np.int64)


def choose_balanced(examples: Examples, n: int, *, seed: int) -> Examples:
    """Return `n` examples whose class counts differ by at most one as far as class sizes allow.

    With one seed, a smaller choice is the beginning of a larger one. Choosing all of them gives `examples` back,
    order and subset name unchanged. Raises InvalidInputError unless `n` is 1 to `len(examples)`.
    """
    if not 1 <= n <= len(examples):
        raise InvalidInputError(
            f"cannot choose {n} examples of {examples.name} ({examples.split}): give a number from 1 to {len(examples)}"
        )
    if n == len(examples):
        return examples
    return examples.take(balanced_order(examples.labels, seed=seed)[:n], subset=f"balanced-{n}-seed-{seed}")
