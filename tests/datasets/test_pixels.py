from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from mixbench.datasets.pixels import EncodedImage, decode, decode_all
from mixbench.errors import DatasetError

Encode = Callable[..., bytes]


@pytest.mark.parametrize("format_", ["PNG", "BMP"])
def test_rgb_images_come_back_bit_for_bit(photos: np.ndarray, png: Encode, format_: str) -> None:
    decoded = decode(EncodedImage(png(photos[0], format_=format_), "here"))
    assert (decoded == photos[0].transpose(2, 0, 1)).all()


def test_grey_images_have_one_channel(photos: np.ndarray, png: Encode) -> None:
    grey = photos[0, :, :, 0]
    decoded = decode(EncodedImage(png(grey, mode="L"), "here"))
    assert decoded.shape == (1, 4, 5)
    assert (decoded[0] == grey).all()


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA"])
def test_every_other_8_bit_mode_becomes_rgb(photos: np.ndarray, png: Encode, mode: str) -> None:
    content = png(photos[0], mode=mode)
    expected = np.asarray(Image.fromarray(photos[0]).convert(mode).convert("RGB")).transpose(2, 0, 1)
    assert (decode(EncodedImage(content, "here")) == expected).all()


def test_pixels_of_16_bits_are_refused_and_not_cut_off(png: Encode) -> None:
    deep = np.full((4, 5), 40_000, dtype=np.uint16)
    with pytest.raises(DatasetError, match=r"here has pixels of mode 'I(;16)?', expected 8 bits"):
        decode(EncodedImage(png(deep, mode="I;16"), "here"))


@pytest.mark.parametrize("length", [0, 4, 40, -40], ids=["empty", "four bytes", "header only", "cut near the end"])
def test_a_truncated_image_is_refused_by_place(photos: np.ndarray, png: Encode, length: int) -> None:
    with pytest.raises(DatasetError, match=r"shelf 3 is not a readable image"):
        decode(EncodedImage(png(photos[0])[:length], "shelf 3"))


def test_images_are_stacked_in_order(photos: np.ndarray, png: Encode) -> None:
    stacked = decode_all((EncodedImage(png(photo), "here") for photo in photos), n=6)
    assert (stacked == photos.transpose(0, 3, 1, 2)).all()


@pytest.mark.parametrize(
    ("shape", "mode", "sizes"),
    [((5, 5, 3), "RGB", "3x5x5 .* 3x4x5"), ((4, 5), "L", "1x4x5 .* 3x4x5")],
    ids=["height", "channels"],
)
def test_the_first_image_of_another_size_is_named(
    photos: np.ndarray, png: Encode, shape: tuple[int, ...], mode: str, sizes: str
) -> None:
    odd = png(np.zeros(shape, dtype=np.uint8), mode=mode)
    images = [EncodedImage(png(photos[0]), "row 0"), EncodedImage(odd, "row 1"), EncodedImage(odd, "row 2")]
    with pytest.raises(DatasetError, match=f"row 1 is {sizes}"):
        decode_all(images, n=3)
