"""Augmentation on the device: random draws first, then a computation without randomness that a graph can replay."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from mixbench.threat_model import Norm
from mixbench.training.erasing import DRAWS, erased
from mixbench.training.rand_augment import OPERATIONS, rand_augmented
from mixbench.training.recipes import Recipe

Images = Float[Tensor, "batch channel height width"]


@dataclass(frozen=True, eq=False)
class Draws:
    """The random choices for one batch; None for what the recipe does not do.

    Attributes:
        shifts: Rows and columns that each image is shifted by, 0 to twice the reach.
        mirrored: Which images are mirrored.
        operations: RandAugment's operation for each round and image.
        negative: Whether that operation goes the other way.
        erasing: What decides, in this order, whether, how large, how tall and where an image is blackened: in [0, 1).
        start: Where the search for adversarial examples begins: uniform in [0, 1] for Linf, normal for L2.
    """

    shifts: Int64[Tensor, "2 batch"] | None
    mirrored: Bool[Tensor, " batch"] | None
    operations: Int64[Tensor, "round batch"] | None
    negative: Bool[Tensor, "round batch"] | None
    erasing: Float[Tensor, "draw batch"] | None
    start: Images | None

    def tensors(self) -> tuple[Tensor, ...]:
        """Return those that there are, in a fixed order."""
        every = (self.shifts, self.mirrored, self.operations, self.negative, self.erasing, self.start)
        return tuple(tensor for tensor in every if tensor is not None)


def draw(recipe: Recipe, size: tuple[int, int, int, int], generator: torch.Generator) -> Draws:
    """Return the choices for a batch of images of shape `size`, on the generator's device."""
    n, device = size[0], generator.device
    shifts = mirrored = operations = negative = erasing = start = None
    if recipe.max_shift:
        shifts = torch.randint(0, 2 * recipe.max_shift + 1, (2, n), generator=generator, device=device)
    if recipe.flip:
        mirrored = torch.rand(n, generator=generator, device=device) < 0.5  # noqa: PLR2004 - one half
    if recipe.rand_augment is not None:
        rounds = (recipe.rand_augment.operations, n)
        operations = torch.randint(0, len(OPERATIONS), rounds, generator=generator, device=device)
        negative = torch.rand(rounds, generator=generator, device=device) < 0.5  # noqa: PLR2004 - one half
    if recipe.erasing:
        erasing = torch.rand((DRAWS, n), generator=generator, device=device)
    if recipe.adversarial is not None:
        sample = torch.rand if recipe.adversarial.threat_model.norm is Norm.LINF else torch.randn
        start = sample(size, generator=generator, device=device)
    return Draws(shifts, mirrored, operations, negative, erasing, start)


def augmented(images: Images, recipe: Recipe, draws: Draws) -> Images:
    """Return the images shifted, mirrored and further augmented as `draws` says."""
    if draws.shifts is not None:
        images = shifted(images, draws.shifts, reach=recipe.max_shift)
    if draws.mirrored is not None:
        images = torch.where(draws.mirrored[:, None, None, None], images.flip(3), images)
    if recipe.rand_augment is not None and draws.operations is not None and draws.negative is not None:
        for operations, negative in zip(draws.operations, draws.negative, strict=True):
            images = rand_augmented(images, operations, negative, magnitude=recipe.rand_augment.magnitude)
    if draws.erasing is not None:
        images = erased(images, draws.erasing, share=recipe.erasing)
    return images


def shifted(images: Images, shifts: Int64[Tensor, "2 batch"], *, reach: int) -> Images:
    """Return each image shifted by `reach` less its `shifts`, down and right, filled with 0."""
    n, _, height, width = images.shape
    rows = shifts[0, :, None] + torch.arange(height, device=images.device)
    columns = shifts[1, :, None] + torch.arange(width, device=images.device)
    padded = functional.pad(images, (reach, reach, reach, reach))
    example = torch.arange(n, device=images.device)[:, None, None]
    return padded[example, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
