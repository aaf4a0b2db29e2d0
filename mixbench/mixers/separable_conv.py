"""The separable convolution that `separate` puts in place of a full one."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SeparableConv2d(nn.Module):
    """A depthwise k x k convolution (the spatial mixer) followed by a pointwise one (the channel mixer).

    Attributes:
        spatial: Depthwise, with the kernel, stride, padding, dilation and padding mode of `conv`; no bias.
        channel: Pointwise, with the groups of `conv` and a bias if `conv` has one.
        in_channels: As in `conv`; timm reads both of these from the convolutions in its blocks.
        out_channels: As in `conv`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.in_channels = conv.in_channels
        self.out_channels = conv.out_channels
        device, dtype = conv.weight.device, conv.weight.dtype
        self.spatial = nn.Conv2d(
            conv.in_channels,
            conv.in_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            stride=(conv.stride[0], conv.stride[1]),
            padding=conv.padding if isinstance(conv.padding, str) else (conv.padding[0], conv.padding[1]),
            dilation=(conv.dilation[0], conv.dilation[1]),
            groups=conv.in_channels,
            bias=False,
            padding_mode=conv.padding_mode,
            device=device,
            dtype=dtype,
        )
        self.channel = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            1,
            groups=conv.groups,
            bias=conv.bias is not None,
            device=device,
            dtype=dtype,
        )
        self.requires_grad_(conv.weight.requires_grad)
        self.train(conv.training)

    def forward(
        self, features: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch out_channel out_height out_width"]:
        """Return the features mixed in space, then over channels."""
        mixed: torch.Tensor = self.channel(self.spatial(features))
        return mixed
