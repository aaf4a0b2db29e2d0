"""Examples: decoded images with labels, known by the fingerprint of their content."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64, UInt8

from mixbench.errors import DatasetError, InvalidInputError


@dataclass(frozen=True, eq=False)
class Examples:
    """A set of labelled images, in a fixed order.

    Attributes:
        name: The dataset's name, such as "digits".
        split: "train" or "test".
        subset: "all", a named subset, or "balanced-N-seed-S".
        images: Decoded pixels, 0 to 255; may be memory-mapped.
        labels: Class numbers, 0 to `num_classes - 1`.
        indices: Position of each example in the whole split.
        class_names: One name a class.
    """

    name: str
    split: str
    subset: str
    images: UInt8[np.ndarray, "example channel height width"]
    labels: Int64[np.ndarray, " example"]
    indices: Int64[np.ndarray, " example"]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        self._check_types()
        n = len(self.images)
        if n == 0:
            raise DatasetError(f"{self.name} ({self.split}) has no examples: check the folder it was read from")
        if len(self.labels) != n or len(self.indices) != n:
            raise DatasetError(f"{self.name} ({self.split}) has {n} images but {len(self.labels)} labels")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= self.num_classes:
            raise DatasetError(
                f"{self.name} ({self.split}) has labels {self.labels.min()} to {self.labels.max()}, expected 0 to"
                f" {self.num_classes - 1}"
            )

    def _check_types(self) -> None:
        """Raise DatasetError for what would be read as other pixels or classes, such as floats from 0 to 1."""
        if self.images.dtype != np.uint8:
            raise DatasetError(
                f"{self.name} ({self.split}) has images of {self.images.dtype}, expected pixels 0 to 255 as uint8"
            )
        if self.images.ndim != 4:  # noqa: PLR2004 - example, channel, height, width
            raise DatasetError(
                f"{self.name} ({self.split}) has images of shape {self.images.shape}, expected (example, channel,"
                " height, width)"
            )
        for field, numbers in (("labels", self.labels), ("indices", self.indices)):
            if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
                raise DatasetError(
                    f"{self.name} ({self.split}) has {field} of {numbers.dtype} and shape {numbers.shape}, expected one"
                    " integer an example"
                )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "x".join(str(n) for n in self.images.shape[1:])
        return f"Examples({self.name} {self.split}, subset={self.subset}, n={len(self)}, {size})"

    @property
    def num_classes(self) -> int:
        """How many classes the whole dataset has."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the image size, the pixels and the labels, in order."""
        digest = hashlib.sha256(f"uint8 {self.images.shape}".encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()

    def take(self, positions: Int64[np.ndarray, " chosen"], *, subset: str) -> "Examples":
        """Return the examples at `positions` (0 to n - 1), in that order, named as the subset `subset`."""
        if len(positions) and (int(positions.min()) < 0 or int(positions.max()) >= len(self)):
            raise InvalidInputError(
                f"positions {positions.min()} to {positions.max()} are not all in 0 to {len(self) - 1}"
            )
        return Examples(
            name=self.name,
            split=self.split,
            subset=subset,
            images=self.images[positions],
            labels=self.labels[positions],
            indices=self.indices[positions],
            class_names=self.class_names,
        )
