"""Fixed permutations of the pixel positions: the same for all images and channels, and the same bits everywhere."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mixbench.errors import InvalidInputError
from mixbench.mixers import FilterStream

_LAYER = 2**20
"""The stream's layer number, so that no permutation shares its numbers with a model's filters."""

Images = Float[Tensor, "example channel height width"]


@dataclass(frozen=True, eq=False)
class PixelPermutation:
    """Where each pixel goes.

    Attributes:
        height: Of the images, in pixels.
        width: As `height`.
        sources: For each position of the shuffled image, row by row, the position that its pixel comes from.
    """

    height: int
    width: int
    sources: Int64[np.ndarray, " position"]

    @classmethod
    def everywhere(cls, height: int, width: int, *, seed: int) -> "PixelPermutation":
        """Return a permutation of all positions; raises InvalidInputError if `seed` moves no pixel."""
        return cls.of_parts(height, width, (np.arange(height * width),), seed=seed)

    @classmethod
    def within_tiles(cls, height: int, width: int, *, tile: int, seed: int) -> "PixelPermutation":
        """Return a permutation that keeps each pixel in its tile of `tile` x `tile`; the last tiles may be smaller."""
        rows, columns = np.divmod(np.arange(height * width), width)
        owner = rows // tile * -(-width // tile) + columns // tile
        parts = tuple(np.flatnonzero(owner == number) for number in range(int(owner.max()) + 1))
        return cls.of_parts(height, width, parts, seed=seed)

    @classmethod
    def of_fraction(cls, height: int, width: int, *, fraction: float, seed: int) -> "PixelPermutation":
        """Return a permutation among a `fraction` in (0, 1] of all positions, those of smaller fractions first."""
        n = height * width
        order = np.argsort(FilterStream(seed, _LAYER + 1).integers(n), kind="stable")
        return cls.of_parts(height, width, (np.sort(order[: max(2, round(fraction * n))]),), seed=seed)

    @classmethod
    def of_parts(
        cls, height: int, width: int, parts: tuple[Int64[np.ndarray, " part"], ...], *, seed: int
    ) -> "PixelPermutation":
        """Return a permutation that keeps each pixel among the positions of its part."""
        stream = FilterStream(seed, _LAYER)
        sources = np.arange(height * width)
        for part in parts:
            # Ties of 53-bit numbers are next to impossible, and a stable sort orders even them in one way only.
            sources[part] = part[np.argsort(stream.integers(len(part)), kind="stable")]
        if np.array_equal(sources, np.arange(height * width)):
            raise InvalidInputError(
                f"permutation seed {seed} moves no pixel of {height}x{width} images, so there is nothing to undo:"
                " choose another seed or larger images"
            )
        return cls(height, width, sources)

    def shuffled(self, images: Images) -> Images:
        """Return the images with every pixel moved."""
        return self._moved(images, self.sources)

    def restored(self, images: Images) -> Images:
        """Return shuffled images with every pixel back in its place."""
        return self._moved(images, np.argsort(self.sources))

    def displacements(self) -> Int64[np.ndarray, " position"]:
        """Return for each position of the true image how far its pixel was moved: in rows or columns, what is more."""
        target = np.argsort(self.sources)
        rows, columns = np.divmod(np.arange(self.height * self.width), self.width)
        return np.maximum(np.abs(rows[target] - rows), np.abs(columns[target] - columns))

    def _moved(self, images: Images, sources: Int64[np.ndarray, " position"]) -> Images:
        return images.flatten(2)[:, :, torch.from_numpy(sources).to(images.device)].view(images.shape)
