import math

import numpy as np
import pytest
import torch

from mixbench.probes import PixelPermutation
from mixbench.probes.controls import DenseLayer, uniform_noise
from mixbench.probes.metrics import error_by_displacement, estimate, image_metrics

CPU = torch.device("cpu")


def test_an_interval_is_that_of_the_normal_law_for_many_examples() -> None:
    values = np.random.Generator(np.random.PCG64(1)).normal(3, 2, 4000)
    found = estimate(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.15 * half)


def test_equal_values_have_an_interval_without_width() -> None:
    found = estimate(np.full(7, 0.1))
    assert found.low == pytest.approx(found.high) == pytest.approx(0.1)


def test_the_mean_image_has_the_variance_for_an_error() -> None:
    truth = torch.rand(50, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    found = image_metrics(truth.mean(0).expand_as(truth), truth)["mse"]
    assert found.value == pytest.approx(float(truth.double().var(0, correction=0).mean()), rel=1e-5)


def test_a_known_error_has_its_psnr_and_equal_images_have_ssim_1() -> None:
    truth = torch.full((3, 1, 8, 8), 0.4)
    assert image_metrics(truth + 0.1, truth)["psnr"].value == pytest.approx(20, abs=1e-4)
    exact = image_metrics(truth, truth)
    assert (exact["mse"].value, exact["psnr"].value, exact["ssim"].value) == pytest.approx((0, 120, 1))


def test_what_is_outside_the_box_is_clipped() -> None:
    truth = torch.ones(2, 1, 8, 8)
    assert image_metrics(truth + 5, truth)["mse"].value == 0


def test_errors_by_displacement_average_to_the_error() -> None:
    permutation = PixelPermutation.everywhere(8, 8, seed=0)
    truth, decoded = torch.rand(2, 20, 3, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    points = error_by_displacement(decoded, truth, permutation.displacements())
    assert sum(point.n for point in points) == 64
    mean = sum(point.n * point.y.value for point in points) / 64
    assert mean == pytest.approx(image_metrics(decoded, truth)["mse"].value)


def test_the_dense_layer_decodes_exactly() -> None:
    permutation = PixelPermutation.everywhere(8, 8, seed=0)
    train, test = (uniform_noise((n, 2, 8, 8), seed=n, device=CPU) for n in (100, 10))
    dense = DenseLayer.fitted(permutation.shuffled(train), train)
    torch.testing.assert_close(dense(permutation.shuffled(test)), test, rtol=0, atol=1e-6)
    expected = torch.zeros(64, 64, dtype=torch.float64)
    expected[torch.arange(64), torch.from_numpy(permutation.sources)] = 1
    torch.testing.assert_close(dense.weight, expected, rtol=0, atol=1e-8)


def test_noise_is_uniform_and_depends_on_its_seed() -> None:
    first, second = (uniform_noise((50, 1, 8, 8), seed=seed, device=CPU) for seed in (0, 1))
    assert 0 <= float(first.min()) < float(first.max()) < 1
    assert float(first.var()) == pytest.approx(1 / 12, rel=0.05)
    assert not torch.equal(first, second)
