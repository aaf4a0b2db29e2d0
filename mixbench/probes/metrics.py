"""How close decoded images come to the true ones, with bootstrap intervals over images."""

import math
import warnings
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mixbench.probe_record import Estimate, Point

WINDOW = 7
"""Pixels of the side of SSIM's window: no image may be smaller."""

_RESAMPLES = 1000
_BATCH = 1000
_LEAST_MSE = 1e-12
MOST_DECIBELS = 120.0
"""The PSNR of images that are equal up to rounding."""

_TAIL = 2.5

Images = Float[Tensor, "example channel height width"]
Values = Float[np.ndarray, " example"]
Metrics = dict[str, Estimate]


def estimate(values: Float[np.ndarray, "... example"]) -> Estimate:
    """Return the mean of one value an example with its 95% percentile-bootstrap interval.

    Of several rows, such as permutations, the examples are resampled together.
    """
    flat = np.asarray(values, dtype=np.float64)
    return estimates((flat if flat.ndim == 1 else flat.mean(axis=0))[:, None])[0]


def estimates(values: Float[np.ndarray, "example quantity"]) -> tuple[Estimate, ...]:
    """Return what `estimate` does for each of several quantities, in one product."""
    lows, highs = np.percentile(_resamples(len(values)) @ values, [_TAIL, 100 - _TAIL], axis=0)
    means = values.mean(axis=0)
    # With equal values rounding may leave the mean beside its own resamples.
    return tuple(
        Estimate(value=float(mean), low=min(float(low), float(mean)), high=max(float(high), float(mean)))
        for mean, low, high in zip(means, lows, highs, strict=True)
    )


@cache
def _resamples(n: int) -> Float[np.ndarray, "resample example"]:
    """Return the share of each of `n` examples in each resample: the same for all that is measured on them."""
    generator = np.random.Generator(np.random.PCG64(0))
    return generator.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES) / n


def image_metrics(decoded: Images, truth: Images) -> Metrics:
    """Return MSE, PSNR (dB) and SSIM of `decoded`, clipped to [0, 1], over images.

    PSNR is that of the mean squared error of all images, and ends at 120 dB. SSIM is torchmetrics', with a uniform
    window of 7 x 7.
    """
    return metrics_of(*image_values(decoded, truth))


def image_values(decoded: Images, truth: Images) -> tuple[Values, Values]:
    """Return MSE and SSIM of each image of `decoded`, clipped to [0, 1]."""
    return squared_errors(decoded, truth).mean(1).cpu().numpy(), structural_similarity(decoded, truth)


def metrics_of(errors: Values, similarities: Values) -> Metrics:
    """Return what `image_metrics` does, from the MSE and SSIM of each image."""
    mse = estimate(errors)
    psnr = Estimate(value=decibels(mse.value), low=decibels(mse.high), high=decibels(mse.low))
    return {"mse": mse, "psnr": psnr, "ssim": estimate(similarities)}


def decibels(mse: float) -> float:
    """Return the PSNR of an error of values in [0, 1]."""
    return min(MOST_DECIBELS, -10.0 * math.log10(max(mse, _LEAST_MSE)))


def squared_errors(decoded: Images, truth: Images) -> Float[Tensor, "example position"]:
    """Return the squared error of each position, clipped to [0, 1] and averaged over channels, in float64."""
    return (decoded.double().clamp(0, 1) - truth.double()).square().mean(1).flatten(1)


def structural_similarity(decoded: Images, truth: Images) -> Float[np.ndarray, " example"]:
    """Return the SSIM of each image, at most 1."""
    with warnings.catch_warnings():
        # Importing torchmetrics imports pkg_resources where setuptools has it.
        warnings.simplefilter("ignore", DeprecationWarning)
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim  # noqa: PLC0415

    values: list[np.ndarray] = []
    for cut, true in zip(decoded.clamp(0, 1).split(_BATCH), truth.split(_BATCH), strict=True):
        # In float32 the variance of a flat window is all rounding.
        found = ssim(
            cut.double(), true.double(), data_range=1.0, gaussian_kernel=False, kernel_size=WINDOW, reduction="none"
        )
        assert isinstance(found, Tensor), "without the full image there is one tensor"  # noqa: S101 - cannot happen
        values.append(found.reshape(-1).cpu().numpy())
    return np.concatenate(values)


def error_by_displacement(
    decoded: Images, truth: Images, displacements: Int64[np.ndarray, " position"]
) -> tuple[Point, ...]:
    """Return the MSE of the pixels that were moved by each distance; `n` counts them."""
    distances, of_position, counts = np.unique(displacements, return_inverse=True, return_counts=True)
    share = np.zeros((len(displacements), len(distances)))
    share[np.arange(len(displacements)), of_position] = 1 / counts[of_position]
    errors = squared_errors(decoded, truth) @ torch.from_numpy(share).to(truth.device)
    found = estimates(errors.cpu().numpy())
    return tuple(
        Point(x=float(distance), n=int(n), y=one) for distance, n, one in zip(distances, counts, found, strict=True)
    )


def as_tensor(images: np.ndarray, device: torch.device) -> Images:
    """Return uint8 images as float32 in [0, 1]."""
    return torch.from_numpy(np.array(images)).to(device).float() / 255
