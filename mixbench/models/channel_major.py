"""The networks computed channel by channel: the same functions and parameters, several times faster on tensor cores.

Activations are laid out as [channel, batch * position]. A channel mixer is then one matrix product, and a spatial mixer
a batch of products with each channel's Toeplitz matrix, whose cost does not grow with the kernel, or for large images
with a band of it (see `bands`). On a GPU, what lies between the products is computed by `fused_norm`.
"""

from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from timm.models.convmixer import ConvMixer
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional

from mixbench.models.bands import ALIGNED, Bands, mix_in_bands

HAS_TRITON = find_spec("triton") is not None
"""It comes with torch for CUDA on Linux alone."""

Cells = Float[Tensor, "channel cell"]
Placements = Float[Tensor, "tap source target"]
Toeplitz = Float[Tensor, "channel source target"]


class ChannelMajorConvMixer(nn.Module):
    """Computes what `model`, a timm ConvMixer, computes, with its own parameters and statistics.

    Equal to `model` up to the rounding of `dtype`, in which activations are kept; sums, normalisation and logits are
    at least float32. Only for inputs of `image_size`, channels, height and width.

    For `inference` the first layer is computed in float32, since pixels that differ by less than half precision shows
    make a difference to an attack.
    """

    def __init__(
        self,
        model: ConvMixer,
        image_size: tuple[int, int, int],
        *,
        dtype: torch.dtype = torch.float32,
        inference: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self._dtype, self._inference = dtype, inference
        stem: Any = model.stem[0]
        self._patch: int = stem.kernel_size[0]
        height, width = (side // self._patch for side in image_size[1:])
        first: Any = model.blocks[0]
        spatial = first[0].fn[0]
        self._bands = Bands.of(spatial, height, width)
        if self._bands is None:
            placements = toeplitz_placements(spatial, height, width)
        else:
            placements = band_placements(spatial, self._bands)
        self.register_buffer("placements", placements.to(dtype), persistent=False)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch logit"]:
        """Return the logits of `images` in [0, 1]."""
        return _classify(self.model.head, self.features(images), len(images))

    def features(self, images: Float[Tensor, "batch channel height width"]) -> Cells:
        """Return what the last block makes of `images`, before pooling: batch, rows and columns along the cells."""
        model, n = self.model, len(images)
        stem: Any = model.stem
        pixels = images if self._inference else images.to(self._dtype)
        x = _mix_channels(stem[0], patches(pixels, self._patch)).to(self._dtype)
        x = _activated_norm(x, stem[0].bias, stem[2], gelu=True)
        for block in _blocks(model):
            mixed, x = self._mixed(block[0].fn[0], x, n)
            x = _mixer_block(block, mixed, x)
        return x

    def _mixed(self, spatial: nn.Conv2d, x: Cells, n: int) -> tuple[Cells, Cells]:
        """Return what the spatial mixer of a block makes of `x`, without its bias, and `x` itself."""
        placements: Any = self.placements
        if self._bands is not None:
            weight = spatial.weight.flatten(1).to(x.dtype)
            mixed, passed = mix_in_bands(x.view(x.shape[0], n, -1), weight, placements, self._bands)
            return mixed.view(x.shape[0], -1), passed.view(x.shape)
        return _mix_space(x, n, placed(spatial, placements))


class ChannelMajorResNet(nn.Module):
    """Computes what `model`, a separated ResNet of basic blocks without pooling in its stem, computes.

    As `ChannelMajorConvMixer` otherwise, but for `inference` the filters are read once, now. The full convolution of
    the stem is computed as it is.
    """

    def __init__(
        self,
        model: ResNet,
        image_size: tuple[int, int, int],
        *,
        dtype: torch.dtype = torch.float32,
        inference: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self._dtype, self._inference = dtype, inference
        self._sizes: list[tuple[int, int]] = []
        height, width = image_size[1:]
        for number, block in enumerate(_residual_blocks(model)):
            self._sizes.append((height, width))
            for name, conv in (("first", block.conv1.spatial), ("second", block.conv2.spatial)):
                placements = toeplitz_placements(conv, height, width)
                matrices = placed(conv, placements.to(dtype)) if inference else placements.to(dtype)
                self.register_buffer(f"{name}{number}", matrices, persistent=False)
                height, width = (-(-side // conv.stride[0]) for side in (height, width))

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch logit"]:
        """Return the logits of `images` in [0, 1]."""
        model, n = self.model, len(images)
        stem: Any = model.conv1
        norm: Any = model.bn1
        dtype = images.dtype if self._inference else self._dtype
        features = functional.conv2d(images.to(dtype), stem.weight.to(dtype), padding=stem.padding).to(self._dtype)
        x = _activated_norm(features.transpose(0, 1).reshape(features.shape[1], -1), None, norm, relu=True)
        for number, (block, size) in enumerate(zip(_residual_blocks(model), self._sizes, strict=True)):
            first, second = getattr(self, f"first{number}"), getattr(self, f"second{number}")
            if not self._inference:
                first, second = placed(block.conv1.spatial, first), placed(block.conv2.spatial, second)
            x = _residual_block(block, x, n, size=size, first=first, second=second)
        return _classify(model.fc, x, n)


def is_separated_resnet(model: nn.Module) -> bool:
    """Return whether `ChannelMajorResNet` knows how to compute `model`."""
    return (
        isinstance(model, ResNet)
        and isinstance(model.maxpool, nn.Identity)
        and isinstance(model.conv1, nn.Conv2d)
        and isinstance(model.act1, nn.ReLU)
        and all(isinstance(block, BasicBlock) and hasattr(block.conv1, "spatial") for block in _residual_blocks(model))
    )


def toeplitz_placements(conv: nn.Conv2d, height: int, width: int) -> Placements:
    """Return, for each tap of `conv`, the 0/1 matrix [input position, output position] that it fills.

    For square windows without dilation, with any stride, padded by zeros or circularly. The taps are followed by empty
    ones up to a multiple of 8.
    """
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    before = (kernel - 1) // 2 if isinstance(conv.padding, str) else int(conv.padding[0])
    out_height, out_width = (-(-side // stride) for side in (height, width))
    taps = -(-kernel * kernel // ALIGNED) * ALIGNED
    placements = torch.zeros(taps, height * width, out_height * out_width)
    rows, columns = torch.meshgrid(torch.arange(out_height), torch.arange(out_width), indexing="ij")
    for tap in range(kernel * kernel):
        source_rows = rows * stride + tap // kernel - before
        source_columns = columns * stride + tap % kernel - before
        if conv.padding_mode == "circular":
            source_rows, source_columns = source_rows % height, source_columns % width
        inside = (source_rows >= 0) & (source_rows < height) & (source_columns >= 0) & (source_columns < width)
        sources = (source_rows * width + source_columns)[inside]
        placements[tap, sources, (rows * out_width + columns)[inside]] = 1
    return placements


def band_placements(conv: nn.Conv2d, bands: Bands) -> Placements:
    """Return what `toeplitz_placements` does for one block of `bands`, whose window is the input."""
    whole = toeplitz_placements(conv, bands.window, bands.width)
    first = bands.halo * bands.width
    return whole[:, :, first : first + bands.rows * bands.width].contiguous()


def _blocks(model: ConvMixer) -> list[Any]:
    blocks: Any = model.blocks
    return list(blocks)


def _mixer_block(block: Any, mixed: Cells, x: Cells) -> Cells:
    """Return what a block of a ConvMixer makes of `x`, which its spatial mixer made into `mixed`."""
    spatial, _, norm = block[0].fn
    x = _activated_norm(mixed, spatial.bias, norm, residual=x, gelu=True)
    return _activated_norm(_mix_channels(block[1], x), block[1].bias, block[3], gelu=True)


def _residual_blocks(model: ResNet) -> list[Any]:
    stages: Any = (model.layer1, model.layer2, model.layer3, model.layer4)
    return [block for stage in stages for block in stage]


def _residual_block(block: Any, x: Cells, n: int, *, size: tuple[int, int], first: Toeplitz, second: Toeplitz) -> Cells:
    """Return what a basic block of a separated ResNet makes of `x`, whose positions are `size`, height and width."""
    mixed, shortcut = _mix_space(x, n, first)
    y = _activated_norm(_mix_channels(block.conv1.channel, mixed), None, block.bn1, relu=True)
    mixed, _ = _mix_space(y, n, second)
    if block.downsample is not None:
        conv, norm = block.downsample
        stride = conv.stride[0]
        kept = shortcut.view(shortcut.shape[0], n, *size)[:, :, ::stride, ::stride]
        shortcut = _activated_norm(_mix_channels(conv, kept.reshape(shortcut.shape[0], -1)), None, norm)
    return _activated_norm(_mix_channels(block.conv2.channel, mixed), None, block.bn2, residual=shortcut, relu=True)


def patches(images: Float[Tensor, "batch channel height width"], patch: int) -> Float[Tensor, "value cell"]:
    """Return the non-overlapping patches of `images` as columns, ordered like a stem convolution's weights."""
    n, channels, height, width = images.shape
    cut = images.view(n, channels, height // patch, patch, width // patch, patch)
    return cut.permute(1, 3, 5, 0, 2, 4).reshape(channels * patch * patch, -1)


def _mix_channels(conv: Any, x: Cells) -> Cells:
    """Return `x` mixed by the 1 x 1 `conv`, or by one of non-overlapping patches; its bias is left to what follows."""
    return conv.weight.flatten(1).to(x.dtype) @ x


def toeplitz_matrices(conv: nn.Conv2d, height: int, width: int) -> Toeplitz:
    """Return, for each channel of the depthwise `conv`, the matrix [input position, output position] that it is."""
    return placed(conv, toeplitz_placements(conv, height, width).to(conv.weight.dtype))


def placed(conv: Any, placements: Placements) -> Toeplitz:
    """Return the matrix of each channel of the depthwise `conv`, in the dtype of `placements`."""
    taps, sources, targets = placements.shape
    weight = conv.weight.flatten(1).to(placements.dtype)
    # Each cell of a Toeplitz matrix is one tap or zero, so this product is exact in any precision.
    padded = functional.pad(weight, (0, taps - weight.shape[1]))
    return (padded @ placements.to(weight.device).view(taps, -1)).view(-1, sources, targets)


def _mix_space(x: Cells, n: int, toeplitz: Toeplitz) -> tuple[Cells, Cells]:
    """Return `x` mixed within each channel, without a bias, and `x` itself for what goes past it."""
    mix: Any = _MixAndPass.apply
    mixed, passed = mix(x.view(-1, n, toeplitz.shape[1]), toeplitz)
    return mixed.view(x.shape[0], -1), passed.view(x.shape)


class _MixAndPass(torch.autograd.Function):
    """(x @ matrices, x): on the way back, the gradients of both uses of `x` are summed by the matrix product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrices: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, matrices)
        ctx.set_materialize_grads(False)
        return torch.bmm(x, matrices), x.view_as(x)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - two outputs
        ctx: Any, mixed: Tensor, passed: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        x, matrices = ctx.saved_tensors
        dx = dmatrices = None
        if ctx.needs_input_grad[1]:
            dmatrices = torch.bmm(x.transpose(1, 2), mixed)
        if ctx.needs_input_grad[0]:
            back = matrices.transpose(1, 2)
            # The gradient of the passed x has no other reader, and adding into it saves a pass over memory.
            dx = torch.bmm(mixed, back) if passed is None else passed.contiguous().baddbmm_(mixed, back)
        return dx, dmatrices


def _activated_norm(
    x: Cells, bias: Tensor | None, norm: Any, *, residual: Cells | None = None, gelu: bool = False, relu: bool = False
) -> Cells:
    """Return relu(norm(gelu(x + bias)) + residual); without `gelu`, `relu`, `bias` or `residual` that part is left out.

    `norm` is a BatchNorm2d, whose running statistics are updated in training mode.
    """
    if x.is_cuda and HAS_TRITON:
        from mixbench.models.fused_norm import fused_norm  # noqa: PLC0415

        return fused_norm(x, bias, norm, residual=residual, gelu=gelu, relu=relu)
    wide = _widened(x) if bias is None else _widened(x) + bias[:, None]
    wide = _normalise(norm, functional.gelu(wide) if gelu else wide)
    wide = wide if residual is None else wide + residual
    return (torch.relu(wide) if relu else wide).to(x.dtype)


def _normalise(norm: Any, x: Cells) -> Cells:
    if norm.training:
        variance, mean = torch.var_mean(x, dim=1, correction=0)
        cells = x.shape[1]
        with torch.no_grad():
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (cells / (cells - 1)), norm.momentum)
            norm.num_batches_tracked.add_(1)
    else:
        mean, variance = norm.running_mean, norm.running_var
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return x * scale[:, None] + (norm.bias - mean * scale)[:, None]


def _widened(x: Tensor) -> Tensor:
    """Return `x` at least in float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _classify(head: Any, x: Cells, n: int) -> Float[Tensor, "batch logit"]:
    """Return the logits: the mean over positions, and the linear layer `head`."""
    mean: Any = _MeanOverPositions.apply
    return functional.linear(mean(x.view(x.shape[0], n, -1)).t(), head.weight, head.bias)


class _MeanOverPositions(torch.autograd.Function):
    """The mean over the last axis, at least in float32, whose gradient is written once, in the dtype of the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return x.mean(2, dtype=torch.promote_types(x.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - one output
        share = (gradient / ctx.shape[2]).to(ctx.dtype)
        return share[:, :, None].expand(ctx.shape).contiguous()
