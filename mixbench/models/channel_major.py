"""ConvMixer computed channel by channel: the same function and parameters, several times faster on tensor cores."""

from typing import Any

import torch
from jaxtyping import Float
from timm.models.convmixer import ConvMixer
from torch import Tensor, nn
from torch.nn import functional


class ChannelMajorConvMixer(nn.Module):
    """Computes what `model`, a timm ConvMixer, computes, with its own parameters and statistics.

    Activations are laid out as [channel, batch * position]. A channel mixer is then one matrix product, and a spatial
    mixer a batch of products with each channel's Toeplitz matrix, whose cost does not grow with the kernel. Equal to
    `model` up to the rounding of float32 sums; only for inputs of `image_size`, channels, height and width.
    """

    def __init__(self, model: ConvMixer, image_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.model = model
        stem: Any = model.stem[0]
        self._patch: int = stem.kernel_size[0]
        height, width = (side // self._patch for side in image_size[1:])
        self._positions = height * width
        kernel: int = _spatial_conv(model.blocks[0]).kernel_size[0]
        self.register_buffer("placements", toeplitz_placements(kernel, height, width), persistent=False)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch logit"]:
        """Return the logits of `images` in [0, 1]."""
        n, model = len(images), self.model
        x = _point_mix(model.stem[0], _patches(images, self._patch))
        x = _normalise(model.stem[2], functional.gelu(x))
        for block in model.blocks:
            block_layers: Any = block
            branch: Any = block_layers[0].fn
            mixed = self._space_mix(branch[0], x.view(x.shape[0], n, self._positions))
            x = x + _normalise(branch[2], functional.gelu(mixed).view(x.shape))
            x = _normalise(block_layers[3], functional.gelu(_point_mix(block_layers[1], x)))
        pooled = x.view(x.shape[0], n, self._positions).mean(2)
        head: Any = model.head
        return head(pooled.t())

    def _space_mix(
        self, conv: Any, x: Float[Tensor, "channel batch position"]
    ) -> Float[Tensor, "channel batch position"]:
        placements: Any = self.placements
        toeplitz = conv.weight.flatten(1) @ placements.to(conv.weight.dtype)
        matrices = toeplitz.view(-1, self._positions, self._positions)
        return torch.bmm(x, matrices.to(x.dtype)) + conv.bias.to(x.dtype)[:, None, None]


def toeplitz_placements(kernel: int, height: int, width: int) -> Float[Tensor, "tap cell"]:
    """Return, for each tap of a "same" convolution, the 0/1 matrix [input position, output position] it fills, flat."""
    positions = height * width
    placements = torch.zeros(kernel, kernel, positions, positions)
    before = (kernel - 1) // 2
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for row in range(kernel):
        for column in range(kernel):
            source_rows, source_columns = rows + row - before, columns + column - before
            inside = (source_rows >= 0) & (source_rows < height) & (source_columns >= 0) & (source_columns < width)
            sources = (source_rows * width + source_columns)[inside]
            placements[row, column, sources, (rows * width + columns)[inside]] = 1
    return placements.view(kernel * kernel, positions * positions)


def _spatial_conv(block: Any) -> nn.Conv2d:
    return block[0].fn[0]


def _patches(images: Float[Tensor, "batch channel height width"], patch: int) -> Float[Tensor, "value cell"]:
    """Return the non-overlapping patches of `images` as columns, ordered like a stem convolution's weights."""
    n, channels, height, width = images.shape
    cut = images.view(n, channels, height // patch, patch, width // patch, patch)
    return cut.permute(1, 3, 5, 0, 2, 4).reshape(channels * patch * patch, -1)


def _point_mix(conv: Any, x: Float[Tensor, "channel cell"]) -> Float[Tensor, "mixed cell"]:
    mixed = conv.weight.flatten(1) @ x
    return mixed + conv.bias.to(mixed.dtype)[:, None]


def _normalise(norm: Any, x: Float[Tensor, "channel cell"]) -> Float[Tensor, "channel cell"]:
    """Return what the BatchNorm2d `norm` makes of `x`, updating its running statistics in training mode."""
    if norm.training:
        wide = x.float()
        variance, mean = torch.var_mean(wide, dim=1, correction=0)
        cells = x.shape[1]
        with torch.no_grad():
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (cells / (cells - 1)), norm.momentum)
            norm.num_batches_tracked.add_(1)
    else:
        mean, variance = norm.running_mean, norm.running_var
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    shift = norm.bias - mean * scale
    return (x * scale[:, None] + shift[:, None]).to(x.dtype)
