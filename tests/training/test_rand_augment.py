"""RandAugment against torchvision's, operation by operation on real pictures."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode, autoaugment

from mixbench.training.rand_augment import OPERATIONS, rand_augmented

_TORCHVISION = dict(
    zip(OPERATIONS, autoaugment.RandAugment()._augmentation_space(31, (32, 32)), strict=True)  # torchvision's order
)
# Moved pixels are the nearest ones; torchvision breaks a tie between two by the rounding of float32.
_TIES = {"shear_x": 0.02, "shear_y": 0.02, "rotate": 0.01}


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Crops of a photograph, 32 x 32 RGB, as bytes."""
    photograph = load_sample_images().images[0]
    draws = np.random.default_rng(0)
    corners = [(draws.integers(0, 330), draws.integers(0, 540)) for _ in range(20)]
    crops = [photograph[y : y + 96 : 3, x : x + 96 : 3] for y, x in corners]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


def _expected(images: torch.Tensor, operation: str, magnitude: int, *, negative: bool) -> torch.Tensor:
    size = (images.shape[2], images.shape[3])
    magnitudes, _ = autoaugment.RandAugment()._augmentation_space(31, size)[_TORCHVISION[operation]]
    value = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
    fill = [0.0] * images.shape[1]
    return torch.stack(
        [
            autoaugment._apply_op(
                image, _TORCHVISION[operation], -value if negative else value, InterpolationMode.NEAREST, fill
            )
            for image in images
        ]
    )


@pytest.mark.parametrize("magnitude", [0, 8, 30])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_does_what_torchvisions_does(operation: str, magnitude: int, pictures: torch.Tensor) -> None:
    signed = autoaugment.RandAugment()._augmentation_space(31, (32, 32))[_TORCHVISION[operation]][1]
    for channels in (3, 1):
        images = pictures[:, :channels].contiguous()
        for negative in {False, signed}:
            chosen = torch.full((len(images),), OPERATIONS.index(operation))
            found = rand_augmented(
                images.float() / 255, chosen, torch.full((len(images),), negative), magnitude=magnitude
            )
            expected = _expected(images, operation, magnitude, negative=negative)
            # Both round to grey levels; one step apart is the rounding of a blend.
            wrong = (found * 255 - expected.float()).abs() > 1.01
            assert float(wrong.float().mean()) <= _TIES.get(operation, 0.0)


def test_each_image_gets_its_own_operation(pictures: torch.Tensor) -> None:
    images = pictures[:14].float() / 255
    negative = torch.arange(14) % 2 == 0
    mixed = rand_augmented(images, torch.arange(14), negative, magnitude=12)
    for number in range(14):
        alone = rand_augmented(
            images[number : number + 1], torch.tensor([number]), negative[number : number + 1], magnitude=12
        )
        assert torch.equal(mixed[number : number + 1], alone)


def test_results_are_images(pictures: torch.Tensor) -> None:
    images = pictures.float() / 255
    operations = torch.arange(len(images)) % 14
    result = rand_augmented(images, operations, torch.zeros(len(images), dtype=torch.bool), magnitude=30)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    assert (float(result.min()) >= 0, float(result.max()) <= 1) == (True, True)
