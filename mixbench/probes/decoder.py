"""Isotropic decoders: ConvMixers without patches or pooling that give an image back, and how far they can see."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from timm.models.convmixer import ConvMixer
from torch import Tensor, nn

from mixbench.errors import InvalidInputError
from mixbench.mixers import FilterScheme, Mixing, Place, Role, apply_mixing, default_scheme, find, frozen_proof
from mixbench.models import ChannelMajorConvMixer

Images = Float[Tensor, "batch channel height width"]


@dataclass(frozen=True)
class DecoderSpec:
    """The recipe of a decoder.

    Attributes:
        depth: How many blocks.
        width: Channels within.
        kernel: Taps of a filter's side, odd.
        mixing: Which mixers learn; stem, normalisation and output always do.
        filter_seed: The seed that mixers are drawn from.
        circular: Whether the image is continued periodically, so that no position differs from any other.
    """

    depth: int
    width: int
    kernel: int
    mixing: Mixing
    filter_seed: int
    circular: bool = False

    @property
    def scheme(self) -> FilterScheme:
        """How the spatial filters are drawn."""
        return default_scheme(self.mixing)

    @property
    def reach(self) -> int:
        """How many rows or columns away the farthest pixel is that can influence an output."""
        return self.depth * (self.kernel - 1) // 2

    def check_reaches(self, side: int) -> None:
        """Raise InvalidInputError unless every output of an image of `side` x `side` sees every input."""
        for name, value in (("depth", self.depth), ("width", self.width), ("kernel", self.kernel)):
            if value < 1:
                raise InvalidInputError(f"{name} {value} is not at least 1: leave it out for the dataset's own")
        if self.kernel % 2 == 0:
            raise InvalidInputError(
                f"kernel {self.kernel} is even, so filters have no centre: choose {self.kernel + 1}"
            )
        needed = side - 1
        if self.reach < needed:
            depth = f"depth {-(-2 * needed // (self.kernel - 1))} or " if self.kernel > 1 else ""
            kernel = 2 * -(-needed // self.depth) + 1
            raise InvalidInputError(
                f"depth {self.depth} and kernel {self.kernel} reach {self.reach} pixels, but a pixel of a {side}x{side}"
                f" image may be moved by {needed}: choose {depth}kernel {kernel}"
            )

    def build(self, image_size: tuple[int, int, int]) -> "Decoder":
        """Return the decoder, drawn from torch's global generator but for its filters."""
        return Decoder(self, image_size)

    def prove_frozen(self, decoder: "Decoder") -> None:
        """Return if what `mixing` freezes still equals its draw bit for bit; raises CheckpointError."""
        frozen_proof(decoder.mixer, self.mixing, scheme=self.scheme, filter_seed=self.filter_seed)


class Decoder(nn.Module):
    """timm's ConvMixer with patches of one pixel, its pooling and classifier replaced by a linear output a pixel.

    Images of `image_size` (channels, height, width) in [0, 1] to images of the same size, whose values are unbounded.
    """

    def __init__(self, spec: DecoderSpec, image_size: tuple[int, int, int]) -> None:
        super().__init__()
        channels = image_size[0]
        self.image_size = image_size
        self.mixer = ConvMixer(
            dim=spec.width, depth=spec.depth, kernel_size=spec.kernel, patch_size=1, in_chans=channels, num_classes=0
        )
        apply_mixing(self.mixer, spec.mixing, scheme=spec.scheme, filter_seed=spec.filter_seed)
        if spec.circular:
            for mixer in find(self.mixer):
                if mixer.role is Role.SPATIAL and mixer.place is Place.BODY:
                    setattr(mixer.module, "padding_mode", "circular")  # noqa: B010 - typed as a plain string nowhere
        self.output = nn.Conv2d(spec.width, channels, 1)

    def forward(self, images: Images) -> Images:
        """Return the decoded images."""
        return self.output(self.mixer.forward_features(images))


class ChannelMajorDecoder(nn.Module):
    """Computes what `decoder` computes, with its own parameters, channel by channel: see ChannelMajorConvMixer."""

    def __init__(self, decoder: Decoder, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.decoder = decoder
        self.body = ChannelMajorConvMixer(decoder.mixer, decoder.image_size, dtype=dtype)

    def forward(self, images: Images) -> Images:
        """Return the decoded images."""
        cells = self.body.features(images)
        output: Any = self.decoder.output
        weight = output.weight.flatten(1)
        decoded = (weight.to(cells.dtype) @ cells).float() + output.bias[:, None]
        channels, height, width = self.decoder.image_size
        return decoded.view(channels, len(images), height, width).transpose(0, 1)
