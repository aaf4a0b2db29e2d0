"""A network of a submitter's own, and what a dishonest one would make of it: same weights, same file."""

from typing import Any

import torch
from torch import Tensor, nn

from mixbench.models import ARCHITECTURES, ModelSpec


class Foreign(nn.Module):
    """A ConvMixer that this registry builds otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = ModelSpec.for_dataset(ARCHITECTURES["convmixer_frozen"], "digits", filter_seed=0).build()

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images)


class Noisy(Foreign):
    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) + 1e-3 * torch.rand(1)


class Softmax(Foreign):
    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images).softmax(1)


class Centred(Foreign):
    """Looks at the whole batch, as a network in train mode does."""

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images - images.mean(0, keepdim=True) + 0.3)


class Detached(Foreign):
    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images.detach())


class Quantised(Foreign):
    """Rounds its input, so the true gradient is zero everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return self.inner((images * 16).round() / 16)


class Narrow(Foreign):
    """Has no answer for white images."""

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) / (images.amin((1, 2, 3)) < 1)[:, None]


class _Astray(torch.autograd.Function):
    """Passes images on, and sends back a gradient that leads nowhere."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.save_for_backward(images)
        return images.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (images,) = ctx.saved_tensors
        return (torch.sin(1e4 * images) + 0.1) * gradients[0].abs().amax()


class Astray(Foreign):
    def forward(self, images: Tensor) -> Tensor:
        return self.inner(_Astray.apply(images))


def broken() -> nn.Module:
    raise ImportError("cannot import name 'gone'")


def no_network() -> str:
    return "trust me"
