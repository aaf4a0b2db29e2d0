"""The digits set: 1,797 handwritten 8x8 digits inside scikit-learn's wheel, so it needs no network and no folder.

scikit-learn defines no split, so this module fixes one: 360 test and 1,437 training examples. Each class gives the
test set its share of 360, rounded by largest remainder; which examples is decided by a seeded permutation of each
class, drawn so that no release of NumPy can change it. The catalogue pins the result by fingerprint.
"""

import numpy as np
from jaxtyping import Int64

from mixbench.datasets.examples import Examples
from mixbench.datasets.selection import balanced_order

TEST_SIZE = 360
_SPLIT_SEED = 0


def read_digits(*, split: str) -> Examples:
    """Return the "train" or "test" digits, (1, 8, 8) images with the grey levels 0 to 16 spread over 0 to 255.

    The test set interleaves the classes, so its prefixes are about balanced; the training set keeps
    scikit-learn's order.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes a second, and only this set needs it

    levels, targets = load_digits(return_X_y=True)
    labels = np.asarray(targets, dtype=np.int64)
    positions = _split_positions(labels)[split]
    # Integers only: 0 to 16 become round(level * 255 / 16) whatever the platform's rounding.
    pixels = ((np.asarray(levels).astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    return Examples(
        name="digits",
        split=split,
        subset="all",
        images=pixels.reshape(-1, 1, 8, 8)[positions],
        labels=labels[positions],
        indices=np.arange(len(positions), dtype=np.int64),
        class_names=tuple("0123456789"),
    )


def _split_positions(labels: Int64[np.ndarray, " example"]) -> dict[str, Int64[np.ndarray, " chosen"]]:
    order = balanced_order(labels, seed=_SPLIT_SEED)
    quotas = _largest_remainder(np.bincount(labels), TEST_SIZE)
    per_class = [order[labels[order] == digit][:quota] for digit, quota in enumerate(quotas)]
    is_test = np.zeros(len(labels), dtype=np.bool_)
    is_test[np.concatenate(per_class)] = True
    return {"train": np.flatnonzero(~is_test), "test": order[is_test[order]]}


def _largest_remainder(sizes: Int64[np.ndarray, " class"], total: int) -> Int64[np.ndarray, " class"]:
    """Return shares of `total` proportional to `sizes`, as integers; ties go to the lower class."""
    shares, remainders = np.divmod(sizes * total, sizes.sum())
    neediest = np.argsort(-remainders, kind="stable")
    shares[neediest[: total - shares.sum()]] += 1
    return shares
