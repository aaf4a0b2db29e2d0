"""A ConvMixer whose every mixer is one kernel: for searching with it in half precision on a GPU.

What lies between two matrix products (bias, GELU, normalisation, the residual sum, and on the way back their slopes) is
computed on the product's sums while they are in registers, so that a mixer reads and writes its activations once.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from timm.models.convmixer import ConvMixer
from torch import Tensor, nn
from torch.nn import functional

from mixbench.models import mixer_kernels as kernels
from mixbench.models.channel_major import Placements, patches, placed, toeplitz_placements

Activations = Float[Tensor, "channel image position"]

_ALIGNED = 16
"""Rows of so many values are read in whole sectors."""


@dataclass(frozen=True)
class _Tile:
    """What one program computes of a product, chosen by measurement on an H100 at 16 x 16 positions, 256 channels."""

    rows: int
    columns: int
    stages: int

    def grid(self, rows: int, columns: int) -> int:
        return -(-rows // self.rows) * -(-columns // self.columns)

    @property
    def how(self) -> Any:
        return {"DEPTH": 64, "num_warps": 4, "num_stages": self.stages}


_AHEAD, _BACK = _Tile(64, 128, stages=2), _Tile(64, 64, stages=3)


@dataclass(frozen=True, eq=False)
class _Mixer:
    """A mixer with all that is constant folded.

    Attributes:
        weight: A matrix for the channels, or for each channel one for the space.
        back: The transposed matrix, where the way back reads it like that.
        bias: Added to the product.
        scale: What the normalisation multiplies by.
        shift: What it adds.
    """

    weight: Tensor
    back: Tensor
    bias: Float[Tensor, " channel"]
    scale: Float[Tensor, " channel"]
    shift: Float[Tensor, " channel"]


class FusedConvMixer(nn.Module):
    """Computes what `model`, a timm ConvMixer in eval mode, computes now, on a CUDA device.

    Weights and activations are float16, sums, activation functions and normalisation float32. The pixels and the first
    layer's weights are each the sum of two float16 values, since pixels that differ by less than half precision shows
    make a difference to an attack. Later changes of the weights are not seen. Only for inputs of `image_size`,
    channels, height and width, and not for large ones: the matrices over all positions of all blocks are kept.
    """

    def __init__(self, model: ConvMixer, image_size: tuple[int, int, int]) -> None:
        super().__init__()
        stem: Any = model.stem
        blocks: Any = model.blocks
        self._head: Any = model.head
        self._patch: int = stem[0].kernel_size[0]
        height, width = (side // self._patch for side in image_size[1:])
        self._counted = height * width
        self._positions = -(-self._counted // _ALIGNED) * _ALIGNED
        with torch.no_grad():
            exact = stem[0].weight.flatten(1)
            self._stem = _Mixer(_thrice_weight(exact), exact.half().t().contiguous(), stem[0].bias, *_affine(stem[2]))
            extra = self._positions - self._counted
            placements = toeplitz_placements(blocks[0][0].fn[0], height, width).half()
            placements = functional.pad(placements, (0, extra, 0, extra)).to(exact.device)
            self._mixers: list[tuple[_Mixer, _Mixer]] = [
                (_space(block[0].fn[0], block[0].fn[2], placements), _channels(block[1], block[3])) for block in blocks
            ]

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch logit"]:
        """Return the logits of `images` in [0, 1]."""
        body: Any = _Body.apply
        pixels = self._pixels(images)
        pooled = body(pixels, self._stem, self._mixers, self._counted, pixels.requires_grad)
        return functional.linear(pooled.t(), self._head.weight, self._head.bias)

    def _pixels(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "value image position"]:
        cut = patches(images, self._patch).unflatten(1, (len(images), -1))
        return functional.pad(cut, (0, self._positions - self._counted))


class _Body(torch.autograd.Function):
    """The mean over positions of what the last block makes of the patches of images, in float32."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        pixels: Float[Tensor, "value image position"],
        stem: _Mixer,
        mixers: list[tuple[_Mixer, _Mixer]],
        counted: int,
        keep: bool,  # noqa: FBT001 - as above
    ) -> Float[Tensor, "channel image"]:
        x, before = _mix_channels(_thrice(pixels), stem, keep=keep)
        kept = [before]
        for space, channels in mixers:
            x, before = _mix_space(x, space, keep=keep)
            kept.append(before)
            x, before = _mix_channels(x, channels, keep=keep)
            kept.append(before)
        ctx.kept, ctx.mixers, ctx.counted = kept, [stem, *(mixer for pair in mixers for mixer in pair)], counted
        return x[:, :, :counted].mean(2, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - one output
        kept, mixers = ctx.kept, ctx.mixers
        slope = _spread(gradient.contiguous(), kept[-1], mixers[-1], ctx.counted)
        for number in range(len(mixers) - 1, 0, -2):
            passed, slope = _back_through_channels(slope, mixers[number], kept[number - 1], mixers[number - 1])
            slope = _back_through_space(slope, passed, mixers[number - 1], kept[number - 2], mixers[number - 2])
        pixels, _ = _back_through_channels(slope, mixers[0], None, None)
        return pixels, None, None, None, None


def _mix_channels(x: Activations, mixer: _Mixer, *, keep: bool) -> tuple[Activations, Activations]:
    """Return what `mixer` and what follows it make of `x`, and, with `keep`, its product."""
    outputs, cells = len(mixer.weight), x[0].numel()
    y = x.new_empty(outputs, *x.shape[1:])
    before = torch.empty_like(y) if keep else y
    kernels.mix_channels[(_AHEAD.grid(outputs, cells),)](
        mixer.weight, x, before, y, mixer.bias, mixer.scale, mixer.shift, outputs, len(x), cells,
        KEEP=keep, OUTPUTS=_AHEAD.rows, CELLS=_AHEAD.columns, **_AHEAD.how,
    )  # fmt: skip
    return y, before


def _mix_space(x: Activations, mixer: _Mixer, *, keep: bool) -> tuple[Activations, Activations]:
    channels, images, positions = x.shape
    y = torch.empty_like(x)
    before = torch.empty_like(x) if keep else y
    kernels.mix_space[(_AHEAD.grid(images, positions), channels)](
        mixer.weight, x, before, y, mixer.bias, mixer.scale, mixer.shift, images, positions,
        KEEP=keep, IMAGES=_AHEAD.rows, POSITIONS=_AHEAD.columns, **_AHEAD.how,
    )  # fmt: skip
    return y, before


def _back_through_channels(
    gradient: Activations, mixer: _Mixer, before: Activations | None, earlier: _Mixer | None
) -> tuple[Activations, Activations]:
    """Return the gradient of what `mixer` was given, and that of the product of the mixer `earlier`."""
    outputs, cells = len(mixer.back), gradient[0].numel()
    dtype = torch.float32 if before is None else gradient.dtype
    passed = torch.empty(outputs, *gradient.shape[1:], dtype=dtype, device=gradient.device)
    slope = passed if before is None else torch.empty_like(passed)
    vectors = mixer if earlier is None else earlier
    kernels.mix_channels_back[(_BACK.grid(outputs, cells),)](
        mixer.back, gradient, before, passed, slope, vectors.bias, vectors.scale, outputs, len(gradient), cells,
        ACTIVATED=before is not None, OUTPUTS=_BACK.rows, CELLS=_BACK.columns, **_BACK.how,
    )  # fmt: skip
    return passed, slope


def _back_through_space(
    gradient: Activations, passed: Activations, mixer: _Mixer, before: Activations, earlier: _Mixer
) -> Activations:
    channels, images, positions = gradient.shape
    slope = torch.empty_like(gradient)
    kernels.mix_space_back[(_BACK.grid(images, positions), channels)](
        mixer.back, gradient, passed, before, slope, earlier.bias, earlier.scale, images, positions,
        IMAGES=_BACK.rows, POSITIONS=_BACK.columns, **_BACK.how,
    )  # fmt: skip
    return slope


def _spread(gradient: Float[Tensor, "channel image"], before: Activations, mixer: _Mixer, counted: int) -> Activations:
    channels, images, positions = before.shape
    slope = torch.empty_like(before)
    kernels.spread[(channels, images)](
        gradient, before, slope, mixer.bias, mixer.scale, images, positions, counted,
        BLOCK=1 << (positions - 1).bit_length(),
    )  # fmt: skip
    return slope


def _space(conv: Any, norm: Any, placements: Placements) -> _Mixer:
    matrices = placed(conv, placements)
    return _Mixer(matrices, matrices, conv.bias, *_affine(norm))


def _channels(conv: Any, norm: Any) -> _Mixer:
    weight = conv.weight.flatten(1).half()
    return _Mixer(weight.contiguous(), weight.t().contiguous(), conv.bias, *_affine(norm))


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a norm in eval mode."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return two float16 tensors whose sum is `values`, as far as float32 shows it."""
    high = values.half()
    return high, (values - high.float()).half()


def _thrice(pixels: Float[Tensor, "value image position"]) -> Activations:
    """Return what `_thrice_weight` multiplies: of the product of two sums, all but the smallest of four products."""
    high, low = _halves(pixels)
    return torch.cat([high, low, high, high.new_zeros(-3 * len(pixels) % _ALIGNED, *pixels.shape[1:])])


def _thrice_weight(weight: Float[Tensor, "output value"]) -> Float[Tensor, "output padded"]:
    high, low = _halves(weight)
    return torch.cat([high, high, low, high.new_zeros(len(weight), -3 * weight.shape[1] % _ALIGNED)], dim=1)
