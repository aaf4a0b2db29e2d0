"""Hand-written models whose robustness is known in closed form, and the examples to go with them."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from timm.models.convmixer import ConvMixer
from torch import Tensor, nn

from mixbench.datasets import Examples
from mixbench.models import LoadedModel
from mixbench.records import ModelIdentity, ParameterCounts
from mixbench.threat_model import Norm

ImageSize = tuple[int, int, int]


class LinearModel(nn.Module):
    """Two opposite logits, half a linear score each, and constant ones far below them.

    Takes images in [0, 1]; the score is the product of weights and images - 1/2, class 0 where it is above 0. With
    four classes or more AutoAttack's targeted loss is defined.
    """

    def __init__(self, weights: Float[Tensor, "channel height width"], *, num_classes: int = 4) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.float())
        self.floor: Tensor
        self.register_buffer("floor", torch.full((num_classes - 2,), -5.0))
        self.eval()

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch logit"]:
        score = ((images - 0.5).flatten(1) @ self.weights.flatten())[:, None]
        return torch.cat([score / 2, -score / 2, self.floor.expand(len(images), -1)], dim=1)

    def radii(self, images: Float[Tensor, "batch channel height width"], norm: Norm) -> Float64[np.ndarray, " batch"]:
        """Return how far each image is from the other class, where the box [0, 1] does not stand in between."""
        weights = self.weights.detach().double().flatten()
        score = ((images.double() - 0.5).flatten(1) @ weights).abs()
        dual = {Norm.LINF: weights.abs().sum(), Norm.L2: weights.norm(), Norm.L1: weights.abs().max()}[norm]
        return (score / dual).numpy()


class Needy(nn.Module):
    """A model that has memory for no more than `most` images at once; `refused` notes the batches it turned away."""

    def __init__(self, model: nn.Module, *, most: int) -> None:
        super().__init__()
        self.model = model
        self.most = most
        self.refused: list[int] = []
        self.eval()

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch logit"]:
        if len(images) > self.most:
            self.refused.append(len(images))
            raise torch.OutOfMemoryError(f"no memory for {len(images)} images")
        return self.model(images)


def linear_model(image_size: ImageSize = (1, 6, 6), *, num_classes: int = 4, seed: int = 0) -> LinearModel:
    """Return a linear model with normally distributed weights."""
    weights = torch.randn(image_size, generator=torch.Generator().manual_seed(seed))
    return LinearModel(weights, num_classes=num_classes)


def one_pixel_model(image_size: ImageSize = (1, 2, 2)) -> LinearModel:
    """Return the model that looks at the first pixel alone: its radius is |pixel - 1/2| in every norm."""
    weights = torch.zeros(image_size)
    weights[0, 0, 0] = 1
    return LinearModel(weights)


def small_convmixer(*, seed: int = 0) -> nn.Module:
    """Return an untrained ConvMixer for 1 x 8 x 8 images and ten classes, its logits spread like a trained one's."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = ConvMixer(dim=16, depth=2, kernel_size=3, patch_size=2, in_chans=1, num_classes=10).eval()
        logits, head = model(torch.rand(100, 1, 8, 8)), model.head
        head.weight /= logits.std(0)[:, None]
        head.bias.copy_((head.bias - logits.mean(0)) / logits.std(0))
    return model


def loaded(module: nn.Module, *, name: str = "toy", image_size: ImageSize | None = None) -> LoadedModel:
    """Return `module` as a model of unknown origin."""
    identity = ModelIdentity(
        name=name,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        mixing="foreign",
        filter_seed=None,
        parameters=ParameterCounts(trained=sum(p.numel() for p in module.parameters()), frozen=0),
    )
    return LoadedModel(module, identity, image_size=image_size, dataset=None)


def grey_levels(n: int, image_size: ImageSize = (1, 6, 6), *, seed: int = 0) -> UInt8[np.ndarray, "n c h w"]:
    """Return images of grey levels 100 to 155, which small perturbations leave inside the box."""
    return np.random.Generator(np.random.PCG64(seed)).integers(100, 156, (n, *image_size), dtype=np.uint8)


def labelled_by(
    model: nn.Module, images: UInt8[np.ndarray, "n c h w"], *, wrong: Sequence[int] = (), num_classes: int = 4
) -> Examples:
    """Return examples with the model's own predictions as labels, but for the positions `wrong`."""
    with torch.no_grad():
        labels = model(as_floats(images)).argmax(1).numpy()
    labels[list(wrong)] = 1 - labels[list(wrong)].clip(max=1)
    return Examples(
        name="toy",
        split="test",
        subset="all",
        images=images,
        labels=labels,
        indices=np.arange(len(images), dtype=np.int64),
        class_names=tuple(str(number) for number in range(num_classes)),
    )


def first_pixels(levels: Sequence[int], *, image_size: ImageSize = (1, 2, 2)) -> UInt8[np.ndarray, "n c h w"]:
    """Return images with these grey levels in the first pixel, each different from the others elsewhere."""
    images = np.zeros((len(levels), *image_size), dtype=np.uint8)
    images[:, 0, 0, 0] = levels
    images[:, 0, -1, -1] = np.arange(len(levels)) * 255 // max(len(levels) - 1, 1)
    return images


def as_floats(images: UInt8[np.ndarray, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Return the images in [0, 1], as the harness hands them to a model."""
    return torch.from_numpy(images.copy()).float() / 255
