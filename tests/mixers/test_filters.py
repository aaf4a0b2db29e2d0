import hashlib

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch

from mixbench.errors import InvalidInputError, UnknownNameError
from mixbench.mixers.filters import FilterKind, FilterScheme, draw_biases, draw_filters
from mixbench.mixers.stream import FilterStream

GOLDEN = {
    "uniform": "f6fede50e8c001f87e17ab1fd183f63f4355524e3d0f8975a91bdc7cb52f64fd",
    "normal": "488cb2c8d8f77bf13496815e3a95deaa5edbcc242db329ad2147d85744f7a1a9",
    "smoothed(sigma=1)": "48de2fecd6d4c23c5171ffe34e37cb72e9a8b5ee135e50e4f231e300ea8df03e",
    "smoothed_raw(sigma=1)": "ea9a1a1878bb88537efaeab7d6101c45700c3b148ee0cc321a80a5ed2ffc67be",
    "smoothed(sigma=0.5)": "2ae5ab2d5b39652fbebbff06749f9fe5e544796d1799e327a8928901a458b27b",
    "identity": "2dd4bf51ef03e693c943a65e3686366a562771641f8d5d96579dfe5ab58aa0e8",
    "impulse": "591f3d7f3678191460ad5e7f8f973c5073508c09a57d1047400a20b8df9a6348",
    "box": "d29af4341f3717a971eeca8ec71c3b3562fd257c5f499fae1eebd69895ec172d",
}


def _draw(scheme: str, *, channels: int = 64, kernel: int = 5, seed: int = 0) -> np.ndarray:
    stream = FilterStream(seed, 0)
    return draw_filters(FilterScheme.parse(scheme), channels=channels, kernel=kernel, stream=stream)


def _scipy_blur(filters: np.ndarray, sigma: float) -> np.ndarray:
    radius = filters.shape[1] - 1
    return scipy.ndimage.gaussian_filter(filters, (0, sigma, sigma), mode="constant", radius=(0, radius, radius))


@pytest.mark.parametrize("scheme", GOLDEN)
def test_the_bits_of_seed_0_never_change(scheme: str) -> None:
    stream = FilterStream(0, 0)
    parsed = FilterScheme.parse(scheme)
    filters = draw_filters(parsed, channels=64, kernel=5, stream=stream)
    biases = draw_biases(parsed, channels=64, kernel=5, stream=stream)
    assert filters.shape == (64, 5, 5)
    assert biases.shape == (64,)
    content = filters.astype("<f4").tobytes() + biases.astype("<f4").tobytes()
    assert hashlib.sha256(content).hexdigest() == GOLDEN[scheme]


def test_every_kind_has_golden_bits() -> None:
    assert {FilterScheme.parse(scheme).kind for scheme in GOLDEN} == set(FilterKind)


@pytest.mark.parametrize("kind", FilterKind)
def test_filters_and_biases_are_single_precision(kind: FilterKind) -> None:
    scheme = FilterScheme(kind)
    assert draw_filters(scheme, channels=2, kernel=3, stream=FilterStream(0, 0)).dtype == np.float32
    assert draw_biases(scheme, channels=2, kernel=3, stream=FilterStream(0, 0)).dtype == np.float32


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("uniform", FilterScheme(FilterKind.UNIFORM)),
        ("box", FilterScheme(FilterKind.BOX)),
        ("smoothed(sigma=1)", FilterScheme(FilterKind.SMOOTHED)),
        ("smoothed(sigma=0.75)", FilterScheme(FilterKind.SMOOTHED, 0.75)),
        ("smoothed_raw(sigma=1e-05)", FilterScheme(FilterKind.SMOOTHED_RAW, 0.00001)),
        ("smoothed(sigma=0.30000000000000004)", FilterScheme(FilterKind.SMOOTHED, 0.1 + 0.2)),
    ],
)
def test_a_scheme_is_read_back_as_it_is_written(text: str, scheme: FilterScheme) -> None:
    assert str(scheme) == text
    assert FilterScheme.parse(text) == scheme


@pytest.mark.parametrize("text", ["smoothed", " smoothed ( sigma = 1.0 ) "])
def test_sigma_may_be_left_out_and_spaced(text: str) -> None:
    assert FilterScheme.parse(text) == FilterScheme(FilterKind.SMOOTHED, 1.0)


@pytest.mark.parametrize("text", ["smoothd(sigma=1)", "gaussian", "", "Uniform "])
def test_an_unknown_scheme_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown filter scheme .*available: box, .*uniform"):
        FilterScheme.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("smoothed(sigma=0)", "above 0"),
        ("smoothed(sigma=-1)", "above 0"),
        ("smoothed(sigma=nan)", "finite"),
        ("smoothed(sigma=inf)", "finite"),
        ("smoothed(sigma=wide)", "no readable sigma"),
        ("smoothed(1)", "no readable sigma"),
        ("smoothed(sigma=1", "no readable sigma"),
        ("smoothed(sigma=1)x", "no readable sigma"),
        ("uniform(sigma=1)", "takes no sigma"),
    ],
)
def test_a_sigma_that_cannot_be_used_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        FilterScheme.parse(text)


def test_uniform_filters_fill_their_range_evenly() -> None:
    taps = _draw("uniform", channels=2000).ravel()
    assert scipy.stats.kstest(taps, scipy.stats.uniform(-1 / 5, 2 / 5).cdf).pvalue > 0.01
    assert np.abs(taps).max() <= np.float32(1 / 5)


def test_normal_filters_have_the_variance_of_one_over_k_squared() -> None:
    taps = _draw("normal", channels=2000).ravel()
    assert scipy.stats.kstest(taps, scipy.stats.norm(0, 1 / 5).cdf).pvalue > 0.01


@pytest.mark.parametrize("kernel", [2, 3, 7])
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_smoothed_raw_filters_are_blurred_uniform_ones(kernel: int, sigma: float) -> None:
    expected = _scipy_blur(_draw("uniform", kernel=kernel).astype(np.float64), sigma)
    assert np.allclose(_draw(f"smoothed_raw(sigma={sigma})", kernel=kernel), expected, atol=2e-8)


def test_smoothed_filters_keep_the_energy_they_had_before_the_blur() -> None:
    uniform, smoothed, raw = (_draw(s).astype(np.float64) for s in ("uniform", "smoothed", "smoothed_raw"))
    energies = [np.square(filters).sum(axis=(1, 2)) for filters in (uniform, smoothed, raw)]
    assert np.allclose(energies[1], energies[0], rtol=1e-6)
    assert (energies[2] < 0.5 * energies[0]).mean() > 0.9


def test_smoothed_filters_are_scaled_raw_ones() -> None:
    smoothed, raw = _draw("smoothed").reshape(64, -1), _draw("smoothed_raw").reshape(64, -1)
    cosines = (smoothed * raw).sum(1) / (np.linalg.norm(smoothed, axis=1) * np.linalg.norm(raw, axis=1))
    assert np.allclose(cosines, 1, atol=1e-6)


def test_a_vanishing_blur_leaves_the_uniform_filters() -> None:
    assert np.array_equal(_draw("smoothed(sigma=0.001)"), _draw("uniform"))


def test_smoothed_and_uniform_share_their_biases() -> None:
    biases = []
    for text in ("uniform", "smoothed"):
        stream, scheme = FilterStream(0, 0), FilterScheme.parse(text)
        draw_filters(scheme, channels=8, kernel=3, stream=stream)
        biases.append(draw_biases(scheme, channels=8, kernel=3, stream=stream))
    assert np.array_equal(*biases)
    assert np.unique(biases[0]).size == 8


def test_identity_filters_return_the_image() -> None:
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    filters = torch.from_numpy(_draw("identity", channels=3)).unsqueeze(1)
    assert torch.equal(torch.nn.functional.conv2d(images, filters, padding="same", groups=3), images)


def test_an_identity_filter_without_a_centre_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="4 x 4 taps has no centre"):
        _draw("identity", kernel=4)


def test_impulse_filters_have_one_tap_and_every_tap_occurs() -> None:
    taps = _draw("impulse", channels=500, kernel=3).reshape(500, 9)
    assert np.array_equal(np.sort(taps, axis=1), np.tile([0] * 8 + [1], (500, 1)))
    assert scipy.stats.chisquare(taps.sum(axis=0)).pvalue > 0.01


def test_box_filters_average_the_window() -> None:
    assert np.array_equal(_draw("box", channels=2), np.full((2, 5, 5), np.float32(1 / 25)))


@pytest.mark.parametrize("kind", FilterKind)
def test_biases_are_uniform_where_filters_are_spread_and_zero_elsewhere(kind: FilterKind) -> None:
    biases = draw_biases(FilterScheme(kind), channels=2000, kernel=4, stream=FilterStream(0, 0))
    if kind in (FilterKind.IDENTITY, FilterKind.IMPULSE, FilterKind.BOX):
        assert not biases.any()
    else:
        assert scipy.stats.kstest(biases, scipy.stats.uniform(-1 / 4, 2 / 4).cdf).pvalue > 0.01
