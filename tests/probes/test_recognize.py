from dataclasses import replace

import numpy as np
import pytest
import torch

from mixbench.datasets import Examples
from mixbench.errors import InvalidInputError
from mixbench.models import LoadedModel, load_model
from mixbench.probes import PixelPermutation, plan_recognize, probe_recognize
from mixbench.probes.recognize import area


def test_the_area_of_a_straight_line_is_its_middle() -> None:
    verdicts = [np.arange(100) < right for right in (100, 80, 20)]
    assert area(np.array([0.0, 0.25, 1.0]), verdicts).value == pytest.approx(0.6)


def test_accuracies_are_those_of_the_model_on_images_shuffled_by_hand(test_digits: Examples) -> None:
    model = load_model("convmixer_frozen")
    plan = plan_recognize(model, test_digits, permutation_seeds=(1, 0), seed=0)
    record = probe_recognize(plan, device="cpu").record
    assert record.id == plan.record_id
    assert [measurement.permutation_seed for measurement in record.of("model")] == [0, 1]
    curve = {point.x: point.y.value for point in record.of("model")[1].curves["accuracy_by_tile"]}
    assert list(curve) == [1, 2, 4, 8]
    images = torch.from_numpy(test_digits.images.copy()).float() / 255
    for tile, accuracy in curve.items():
        moved = images if tile == 1 else PixelPermutation.within_tiles(8, 8, tile=int(tile), seed=1).shuffled(images)
        with torch.no_grad():
            right = model.module(moved).argmax(1).numpy() == test_digits.labels
        assert accuracy == pytest.approx(right.mean())
    metrics = record.of("model")[1].metrics
    expected = (curve[1] / 2 + curve[2] + curve[4] + curve[8] / 2) / 3
    assert metrics["area_by_tile"].value == pytest.approx(expected)
    assert (metrics["accuracy"].value, metrics["accuracy_global"].value) == pytest.approx((curve[1], curve[8]))


def test_a_retrained_readout_recognises_what_the_model_does_not(train_digits: Examples, test_digits: Examples) -> None:
    model = load_model("convmixer_frozen")
    plan = plan_recognize(model, test_digits, train=train_digits, permutation_seeds=(0,), seed=0)
    record = probe_recognize(plan, device="cpu").record
    readout, own = record.of("readout")[0].metrics, record.of("model")[0].metrics
    assert readout["accuracy_global"].low > own["accuracy_global"].high


def _loaded(module: torch.nn.Module) -> LoadedModel:
    return replace(load_model("convmixer_frozen"), module=module)


def test_a_checkpoint_without_spatial_mixers_is_refused(test_digits: Examples) -> None:
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises(InvalidInputError, match="has no spatial mixers"):
        plan_recognize(_loaded(linear), test_digits, permutation_seeds=(0,), seed=0)


def test_images_of_another_size_are_refused(test_digits: Examples) -> None:
    padded = replace(test_digits, images=np.pad(test_digits.images, ((0, 0), (0, 0), (1, 1), (1, 1))))
    with pytest.raises(InvalidInputError, match="takes images of 1x8x8"):
        plan_recognize(load_model("convmixer_frozen"), padded, permutation_seeds=(0,), seed=0)
