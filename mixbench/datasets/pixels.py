"""Encoded image files turned into pixels."""

import io
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mixbench.errors import DatasetError

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class EncodedImage:
    """An image file's bytes, and the place to name when they turn out to be damaged."""

    content: bytes
    place: str


def decode(encoded: EncodedImage) -> UInt8[np.ndarray, "channel height width"]:
    """Return the pixels: one channel for 8-bit grey images, three (RGB) for all others.

    Raises DatasetError for a damaged file and for more than 8 bits a channel, which would be cut off.
    """
    try:
        with Image.open(io.BytesIO(encoded.content)) as image:
            mode = image.mode
            pixels = np.asarray(image if mode == "L" else image.convert("RGB"), dtype=np.uint8)
    except _DAMAGE as error:
        raise DatasetError(
            f"{encoded.place} is not a readable image ({error}): it may be truncated, so fetch the data again"
        ) from None
    if mode.startswith(("I", "F")):
        raise DatasetError(f"{encoded.place} has pixels of mode {mode!r}, expected 8 bits a channel: convert it first")
    return pixels[np.newaxis] if mode == "L" else pixels.transpose(2, 0, 1)


def decode_all(images: Iterable[EncodedImage], *, n: int) -> UInt8[np.ndarray, "example channel height width"]:
    """Return the pixels of all `n` images; raises DatasetError when one is damaged or of another size."""
    stacked = np.empty((n, 0, 0, 0), dtype=np.uint8)
    for position, encoded in enumerate(images):
        pixels = decode(encoded)
        if position == 0:
            stacked = np.empty((n, *pixels.shape), dtype=np.uint8)
        if pixels.shape != stacked.shape[1:]:
            raise DatasetError(
                f"{encoded.place} is {_size(pixels.shape)} but the images before it are {_size(stacked.shape[1:])}"
                " (channels x height x width): bring all images to one size"
            )
        stacked[position] = pixels
    return stacked


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)
