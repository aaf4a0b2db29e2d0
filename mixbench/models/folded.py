"""A ConvMixer with all that is constant folded into as few operations as there can be: for small batches on a CPU."""

from typing import Any

import torch
from jaxtyping import Float
from timm.models.convmixer import ConvMixer
from torch import Tensor, nn
from torch.nn import functional

from mixbench.models.channel_major import patches, toeplitz_matrices

Cells = Float[Tensor, "channel cell"]
Column = Float[Tensor, "channel 1"]


class FoldedConvMixer(nn.Module):
    """Computes what `model`, a timm ConvMixer in eval mode, computes now, up to float32 rounding.

    Later changes of its weights are not seen. Only for inputs of `image_size`, channels, height and width.
    """

    def __init__(self, model: ConvMixer, image_size: tuple[int, int, int]) -> None:
        super().__init__()
        stem, blocks, head = _parts(model)
        self._patch: int = stem[0].kernel_size[0]
        height, width = (side // self._patch for side in image_size[1:])
        constants: dict[str, Tensor] = {}
        constants |= _channel_mixer("stem", stem[0], stem[2])
        for number, block in enumerate(blocks):
            spatial, _, norm = block[0].fn
            scale, shift = _affine(norm)
            constants |= {
                f"toeplitz{number}": toeplitz_matrices(spatial, height, width),
                f"spatial_bias{number}": spatial.bias[:, None, None],
                f"spatial_scale{number}": scale,
                f"spatial_shift{number}": shift,
            }
            constants |= _channel_mixer(str(number), block[1], block[3])
        constants |= {"head_weight": head.weight.t(), "head_bias": head.bias}
        for name, value in constants.items():
            self.register_buffer(name, value.detach().clone().contiguous(), persistent=False)
        self._depth = len(blocks)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch logit"]:
        """Return the logits of `images` in [0, 1]."""
        n, constants = len(images), dict(self.named_buffers())
        x = _mixed_channels(constants, "stem", patches(images, self._patch))
        for number in range(self._depth):
            toeplitz = constants[f"toeplitz{number}"]
            mixed = torch.baddbmm(constants[f"spatial_bias{number}"], x.view(len(toeplitz), n, -1), toeplitz)
            residual = x + constants[f"spatial_shift{number}"]
            gelu = functional.gelu(mixed.view(x.shape))
            x = torch.addcmul(residual, gelu, constants[f"spatial_scale{number}"])
            x = _mixed_channels(constants, str(number), x)
        pooled = x.view(len(x), n, -1).mean(2)
        return torch.addmm(constants["head_bias"], pooled.t(), constants["head_weight"])


def _parts(model: ConvMixer) -> tuple[Any, list[Any], Any]:
    blocks: Any = model.blocks
    return model.stem, list(blocks), model.head


def _channel_mixer(name: str, conv: Any, norm: Any) -> dict[str, Tensor]:
    scale, shift = _affine(norm)
    bias: Tensor = conv.bias[:, None]
    return {
        f"weight_{name}": conv.weight.flatten(1),
        f"bias_{name}": bias,
        f"scale_{name}": scale,
        f"shift_{name}": shift,
    }


def _affine(norm: Any) -> tuple[Column, Column]:
    """Return scale and shift of a norm in eval mode."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale[:, None], (norm.bias - norm.running_mean * scale)[:, None]


def _mixed_channels(constants: dict[str, Tensor], name: str, x: Cells) -> Cells:
    mixed = torch.addmm(constants[f"bias_{name}"], constants[f"weight_{name}"], x)
    return torch.addcmul(constants[f"shift_{name}"], functional.gelu(mixed), constants[f"scale_{name}"])
