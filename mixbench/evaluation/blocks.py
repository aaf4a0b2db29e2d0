"""Fixed logical blocks: what the attack library sees at once, and the seed of each."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK_SIZE = 1000
"""Examples a block unless the protocol says otherwise."""


@dataclass(frozen=True)
class Block:
    """Examples `start` to `stop - 1` of the evaluated set."""

    index: int
    start: int
    stop: int


def blocks(n: int, *, block_size: int) -> Iterator[Block]:
    """Yield the blocks of `n` examples, in order; the last may be shorter."""
    for index, start in enumerate(range(0, n, block_size)):
        yield Block(index, start, min(start + block_size, n))


def block_seed(run_seed: int, attack: str, block: int) -> int:
    """Return the seed of a block, 0 to 2**31 - 1, from run seed, attack and block index alone.

    All stages of an attack share it, so a bare run of the attack library on the block with this seed repeats them.
    """
    digest = hashlib.sha256(f"mixbench block seed {run_seed} {attack} {block}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
