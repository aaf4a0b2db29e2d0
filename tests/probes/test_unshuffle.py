from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mixbench.datasets import Examples
from mixbench.errors import InvalidInputError, UnknownNameError
from mixbench.mixers import Mixing
from mixbench.probe_record import ProbeRecord
from mixbench.probes import DecoderChoice, Moment, PixelPermutation, UnshufflePlan, plan_unshuffle, probe_unshuffle
from mixbench.probes.controls import uniform_noise
from mixbench.probes.decoder import DecoderSpec
from mixbench.probes.fitting import Budget, decode, fit_decoder
from mixbench.probes.metrics import decibels


def value(record: ProbeRecord, subject: str, name: str = "mse") -> float:
    return record.of(subject)[0].metrics[name].value


def test_a_record_has_every_control_and_the_closed_forms_hold(plan: UnshufflePlan) -> None:
    record = probe_unshuffle(plan, device="cpu").record
    assert record.id == plan.record_id
    counted = Counter(measurement.subject for measurement in record.measurements)
    thrice = ("decoder", "decoder_on_noise", "dense", "dense_on_noise", "identity")
    once = ("circular", "circular_trained_on_noise", "mean_image", "mean_image_on_noise")
    assert counted == Counter(dict.fromkeys(thrice, 3) | dict.fromkeys(once, 1))
    train, test = (examples.images.astype(np.float64)[:, 0] / 255 for examples in (plan.train, plan.test))
    assert value(record, "mean_image") == pytest.approx(((test - train.mean(0)) ** 2).mean(), rel=1e-5)
    shuffled = test.reshape(len(test), -1)[:, PixelPermutation.everywhere(8, 8, seed=0).sources].reshape(test.shape)
    assert value(record, "identity") == pytest.approx(((test - shuffled) ** 2).mean(), rel=1e-5)
    assert value(record, "identity", "psnr") == pytest.approx(decibels(value(record, "identity")))
    assert record.protocol.permutation_seeds == (0, 1, 2)
    assert record.cost.forwards == 5 * plan.budget.epochs * len(plan.train)
    assert record.warnings == ()


def test_the_same_seeds_give_the_same_record_and_another_seed_another(plan: UnshufflePlan) -> None:
    one = replace(plan, permutation_seeds=(0,))
    first, second, other = (probe_unshuffle(chosen, device="cpu").record for chosen in (one, one, replace(one, seed=1)))
    assert first.without_measured_costs() == second.without_measured_costs()
    assert first.model.sha256 != other.model.sha256
    assert "only 1 of at least 3 permutations" in first.warnings[0]


class _KilledError(Exception):
    """In place of a signal."""


@pytest.mark.parametrize("moment", [1, 3, 9])
def test_a_killed_probe_goes_on_with_the_same_bits(
    moment: int, plan: UnshufflePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixbench.probes.fitting._SECONDS_BETWEEN_STATES", 0.0)
    heard: list[int] = []

    def stop(at: Moment) -> None:
        heard.append(at.done)
        if at.done == moment:
            raise _KilledError

    with pytest.raises(_KilledError):
        probe_unshuffle(plan, device="cpu", workspace=tmp_path, progress=stop)
    kept = {path: path.stat().st_ino for path in tmp_path.glob("*.pt")}
    assert kept
    resumed = probe_unshuffle(plan, device="cpu", workspace=tmp_path)
    finished = [path for path in kept if moment >= 2 and path.name == "decoder-0.pt"]
    assert all(path.stat().st_ino == kept[path] for path in finished)
    whole = probe_unshuffle(plan, device="cpu")
    assert resumed.record.without_measured_costs() == whole.record.without_measured_costs()
    assert resumed.samples == whole.samples
    assert heard == list(range(1, moment + 1))


@pytest.mark.parametrize("content", [b"", b"<html>", None])
def test_a_damaged_or_foreign_state_costs_time_and_not_truth(
    content: bytes | None, plan: UnshufflePlan, tmp_path: Path
) -> None:
    one = replace(plan, permutation_seeds=(0,))
    if content is None:
        probe_unshuffle(replace(one, seed=5), device="cpu", workspace=tmp_path)
    else:
        (tmp_path / "decoder-0.pt").write_bytes(content)
    found = probe_unshuffle(one, device="cpu", workspace=tmp_path).record
    assert found.without_measured_costs() == probe_unshuffle(one, device="cpu").record.without_measured_costs()


def test_a_decoder_without_borders_cannot_decode_noise_better_than_its_bound() -> None:
    # One function for all positions sees each displacement in a share of them, and can average no better than that.
    permutation = PixelPermutation.everywhere(8, 8, seed=0)
    rows, columns = np.divmod(np.arange(64), 8)
    target = np.argsort(permutation.sources)
    offsets = Counter(zip((rows[target] - rows) % 8, (columns[target] - columns) % 8, strict=True))
    bound = (1 - sum(count**2 for count in offsets.values()) / 64**2) / 12
    train, test = (uniform_noise((n, 1, 8, 8), seed=n, device=torch.device("cpu")) for n in (1000, 400))
    spec = DecoderSpec(4, 16, 5, Mixing.TRAINED, filter_seed=0, circular=True)
    budget = Budget(epochs=6, batch_size=50, learning_rate=0.02)
    fitted = fit_decoder(spec, permutation.shuffled(train), train, budget, seed=0)
    decoded = decode(fitted.decoder, permutation.shuffled(test))
    assert float((decoded - test).square().mean()) > 0.98 * bound


def test_a_decoder_learns_digits_better_than_the_mean_image(train_digits: Examples, test_digits: Examples) -> None:
    choice = DecoderChoice(width=16, epochs=40)
    plan = plan_unshuffle("convmixer_trained", train_digits, test_digits, permutation_seeds=(0,), seed=0, choice=choice)
    record = probe_unshuffle(plan, device="cpu").record
    decoder, mean = record.of("decoder")[0].metrics["mse"], record.of("mean_image")[0].metrics["mse"]
    assert decoder.high < mean.low


@pytest.mark.parametrize("model", ["convmixer_evil", "resnet_frozen", "convmixer_frozen.digits"])
def test_an_unknown_mode_is_refused(model: str, train_digits: Examples, test_digits: Examples) -> None:
    with pytest.raises(UnknownNameError, match="convmixer_frozen_smooth"):
        plan_unshuffle(model, train_digits, test_digits, permutation_seeds=(0,), seed=0)


def cropped(examples: Examples, height: int, width: int) -> Examples:
    return replace(examples, images=examples.images[:, :, :height, :width])


@pytest.mark.parametrize(("height", "width", "text"), [(8, 7, "expected square ones"), (6, 6, "at least 7x7")])
def test_images_that_are_not_square_or_too_small_are_refused(
    height: int, width: int, text: str, train_digits: Examples, test_digits: Examples
) -> None:
    train, test = (cropped(examples, height, width) for examples in (train_digits, test_digits))
    with pytest.raises(InvalidInputError, match=text):
        plan_unshuffle("convmixer_frozen", train, test, permutation_seeds=(0,), seed=0)
