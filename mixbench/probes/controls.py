"""What a decoder is held against: a dense layer in closed form, and images of noise."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mixbench.mixers import FilterStream

_NOISE_LAYER = 2**20 + 2
_LEAST_SHARE = 1e-12
"""Of the largest eigenvalue; what lies below is taken for a pixel that never changes."""

Images = Float[Tensor, "example channel height width"]


@dataclass(frozen=True, eq=False)
class DenseLayer:
    """One linear layer over all positions, the same for all channels.

    Attributes:
        weight: Maps the positions of a shuffled image to those of the true one.
        source: Mean shuffled image, of which the weights see deviations.
        target: Mean true image.
    """

    weight: Float[Tensor, "source target"]
    source: Float[Tensor, " source"]
    target: Float[Tensor, " target"]

    @classmethod
    def fitted(cls, shuffled: Images, truth: Images) -> "DenseLayer":
        """Return the least-squares solution of smallest norm, in float64."""
        x, y = (images.flatten(0, 1).flatten(1).double() for images in (shuffled, truth))
        source, target = x.mean(0), y.mean(0)
        x, y = x - source, y - target
        inverse = torch.linalg.pinv(x.T @ x, rtol=_LEAST_SHARE, hermitian=True)
        return cls(inverse @ (x.T @ y), source, target)

    def __call__(self, shuffled: Images) -> Images:
        """Return the decoded images."""
        flat = shuffled.flatten(2).double() - self.source
        return (flat @ self.weight + self.target).view(shuffled.shape).float()


def uniform_noise(shape: tuple[int, int, int, int], *, seed: int, device: torch.device) -> Images:
    """Return images of independent values, uniform in [0, 1), from the project's own stream."""
    values = FilterStream(seed, _NOISE_LAYER).uniform(int(np.prod(shape)))
    return torch.from_numpy(values.astype(np.float32)).view(shape).to(device)
