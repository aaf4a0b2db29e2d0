"""Faults and habits of pyautoattack 0.2.0 that mixbench is built around.

A canary that fails says that upstream changed: read its docstring, then remove or adapt the guard it names.
"""

import copy
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack, checks
from pyautoattack.state import EvaluationState
from torch import Tensor, nn

from tests.canaries.digits_model import EPS, MicroBatched, Target, Wrapped
from tests.canaries.short_autoattack import short, sub_attack

pytestmark = pytest.mark.canary

STANDARD = ["apgd-ce", "apgd-t", "fab-t", "square"]
each_attack = pytest.mark.parametrize("attack", STANDARD)
each_norm = pytest.mark.parametrize("norm", list(EPS))


def robust_accuracy(library: Any, images: Tensor, labels: Tensor) -> float:
    _, predictions = library.run_standard_evaluation(images, labels)
    return (predictions == labels).float().mean().item()


def warned(caplog: pytest.LogCaptureFixture, about: str = "") -> bool:
    return any(record.levelno >= logging.WARNING and about in record.getMessage() for record in caplog.records)


class KilledError(Exception):
    """Stands in for the end of the process."""


@pytest.fixture
def state_path(target: Target, tmp_path: Path) -> Path:
    """The state file of a run killed at the start of its second attack."""

    def kill(images: Tensor, labels: Tensor) -> Tensor:
        del images, labels
        raise KilledError

    path = tmp_path / "state.json"
    library = short(target.model, ["apgd-ce", "apgd-t"])
    library.apgd_targeted.perturb = kill
    with pytest.raises(KilledError):
        library.run_standard_evaluation(target.images, target.labels, state_path=path)
    return path


def test_a_killed_run_cannot_be_resumed(target: Target, state_path: Path) -> None:
    """The set of attacks is saved as its text, which equals no set. Guard: resume from mixbench's own block files."""
    with pytest.raises(ValueError, match="created with a different set of attacks"):
        short(target.model, ["apgd-ce", "apgd-t"]).run_standard_evaluation(
            target.images, target.labels, state_path=state_path
        )


def test_a_state_with_its_set_of_attacks_mended_still_cannot_be_resumed(
    target: Target, state_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`y_adv` is bound on a fresh start alone. Guard: resume from mixbench's own block files."""
    load = EvaluationState.from_disk

    def mended(path: Path) -> Any:
        state: Any = load(path)
        state._attacks_to_run = {"apgd-ce", "apgd-t"}
        return state

    monkeypatch.setattr(EvaluationState, "from_disk", mended)
    with pytest.raises(UnboundLocalError, match="y_adv"):
        short(target.model, ["apgd-ce", "apgd-t"]).run_standard_evaluation(
            target.images, target.labels, state_path=state_path
        )


def test_a_restored_state_cannot_note_a_finished_attack(state_path: Path) -> None:
    """The attacks already run come back as a list. Guard: resume from mixbench's own block files."""
    with pytest.raises(AttributeError, match="'list' object has no attribute 'add'"):
        EvaluationState.from_disk(state_path).add_run_attack("apgd-t")


def test_an_attack_that_has_just_finished_is_missing_from_the_state_file(state_path: Path) -> None:
    """It is saved at most once a minute. Guard: mixbench writes each finished block at once."""
    assert json.loads(state_path.read_text())["_run_attacks"] == []


def test_a_state_path_given_as_text_is_refused_by_accident(target: Target, tmp_path: Path) -> None:
    """Only a `Path` has `.exists`. Guard: mixbench never passes `state_path`."""
    with pytest.raises(AttributeError, match="exists"):
        short(target.model, ["apgd-ce"]).run_standard_evaluation(
            target.images, target.labels, state_path=str(tmp_path / "state.json")
        )


def test_an_adversarial_depends_on_the_batch_size_of_the_library(target: Target) -> None:
    """One draw of noise serves a whole batch. Guard: mixbench's fixed logical blocks, each with its own seed."""
    one_batch, two_batches = (
        short(target.model, ["apgd-ce"]).run_standard_evaluation(target.images, target.labels, batch_size=size)[0]
        for size in (48, 20)
    )
    differs = (one_batch != two_batches).flatten(1).any(1)
    assert not differs[:19].any()
    assert differs[20:].sum() >= 5


def test_an_adversarial_depends_on_the_place_of_its_example_in_the_batch(target: Target) -> None:
    """Guard: mixbench's fixed logical blocks, whose examples keep their order."""
    perturb = sub_attack(short(target.model, ["apgd-ce"]), "apgd-ce")
    forwards = perturb(target.images, target.labels)
    backwards = perturb(target.images.flip(0), target.labels.flip(0)).flip(0)
    assert (forwards != backwards).flatten(1).any(1).sum() >= 20


@each_norm
@each_attack
def test_the_same_seed_gives_the_same_adversarials_however_forwards_are_split(
    target: Target, attack: str, norm: str
) -> None:
    """mixbench relies on it: memory back-off may split forwards, since noise is drawn outside of the model.

    The model computes in float64 and rounds once: in float32 the kernels of a CPU or GPU round differently for
    different batch sizes, which is no doing of the library.
    """
    exact = Wrapped(copy.deepcopy(target.model).double(), before=Tensor.double, after=Tensor.float)
    images, labels = target.images[:40], target.labels[:40]
    whole, by_32, by_7 = (
        short(MicroBatched(exact, size), [attack], norm=norm).run_standard_evaluation(images, labels)[0]
        for size in (40, 32, 7)
    )
    assert (whole != images).any()
    assert torch.equal(whole, by_32)
    assert torch.equal(whole, by_7)


def test_without_a_seed_the_clock_is_the_seed(target: Target) -> None:
    """Guard: mixbench always passes a seed."""
    library = short(target.model, ["apgd-ce"], seed=None)
    start = time.time()
    library.run_standard_evaluation(target.images, target.labels)
    assert start <= library.apgd.seed <= time.time()


@each_attack
def test_an_attack_overwrites_the_global_generator(target: Target, attack: str) -> None:
    """It calls `torch.manual_seed` and draws from there. Guard: mixbench forks the generators around each attack."""
    torch.manual_seed(1234)
    sub_attack(short(target.model, [attack]), attack)(target.images[:8], target.labels[:8])
    assert torch.initial_seed() == 0


def test_a_permuted_memory_layout_crashes_targeted_apgd(target: Target) -> None:
    """It flattens gradients by `view`. Guard: mixbench makes images contiguous."""
    images = target.images.to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        short(target.model, ["apgd-t"]).run_standard_evaluation(images, target.labels)


@each_attack
def test_channels_last_weights_do_no_harm(target: Target, attack: str) -> None:
    """mixbench relies on it: only the images must be contiguous."""
    model = copy.deepcopy(target.model).to(memory_format=torch.channels_last)
    expected = short(target.model, [attack]).run_standard_evaluation(target.images, target.labels)[1]
    predictions = short(model, [attack]).run_standard_evaluation(target.images, target.labels)[1]
    assert (predictions != expected).sum() <= 1


def test_one_dynamic_model_brands_all_later_ones(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    """The counters are global and never reset. Guard: mixbench resets them before each run."""

    def gradient_inside(images: Tensor) -> Tensor:
        with torch.enable_grad():
            copied = images.detach().clone().requires_grad_()
            torch.autograd.grad(copied.sum(), copied)
        return images

    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    for model, branded in (
        (target.model, False),
        (Wrapped(target.model, before=gradient_inside), True),
        (target.model, True),
    ):
        caplog.clear()
        short(model, ["apgd-ce"]).run_standard_evaluation(target.images[:8], target.labels[:8])
        assert warned(caplog, "dynamic defense") is branded


def test_a_run_removes_the_tracer(target: Target) -> None:
    """It kills coverage and debuggers. Guard: mixbench puts the tracer back."""

    def tracer(frame: FrameType, event: str, argument: object) -> None:
        del frame, event, argument

    library = short(target.model, ["square"])
    sys.settrace(tracer)
    library.run_standard_evaluation(target.images[:2], target.labels[:2])
    assert sys.gettrace() is None


def test_normalised_images_are_cut_to_the_box_without_a_word(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    """The perturbation is over eps and the robust accuracy another one. Guard: images outside [0, 1] are refused."""
    mean, std = 0.3, 0.4
    eps = EPS["Linf"] / std
    normalised = (target.images - mean) / std
    unnormalised = Wrapped(target.model, before=lambda images: images * std + mean)
    honest = robust_accuracy(short(target.model, ["apgd-ce"]), target.images, target.labels)
    adversarial, predictions = short(unnormalised, ["apgd-ce"], eps=eps).run_standard_evaluation(
        normalised, target.labels
    )
    replaced = (adversarial != normalised).flatten(1).any(1)
    assert adversarial[replaced].min() >= 0
    assert adversarial[replaced].max() <= 1
    assert (adversarial - normalised).abs().max() > 2 * eps
    assert abs((predictions == target.labels).float().mean().item() - honest) > 0.1
    assert not warned(caplog)


MASKS: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "logits-times-1e4": {"after": lambda logits: logits * 1e4},
    "images-of-4-bits": {"before": lambda images: torch.round(images * 15) / 15},
}


@pytest.mark.parametrize("mask", list(MASKS))
def test_a_masked_gradient_passes_apgd_ce_for_robustness(
    target: Target, mask: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No message, though the robust accuracy is false. Guard: mixbench's own checks for masking."""
    model = Wrapped(target.model, **MASKS[mask])
    honest = robust_accuracy(short(target.model, ["apgd-ce"]), target.images, target.labels)
    masked = robust_accuracy(short(model, ["apgd-ce"]), target.images, target.labels)
    assert masked > honest + 0.2
    assert not warned(caplog)


def test_targeted_apgd_does_warn_of_zero_gradients(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    """mixbench relies on it: warnings of the logger `auto-attack` go into the record."""
    model = Wrapped(target.model, **MASKS["images-of-4-bits"])
    short(model, ["apgd-t"]).run_standard_evaluation(target.images, target.labels)
    assert warned(caplog, "points with zero gradient")


@pytest.mark.parametrize(("factor", "noticed"), [(1.0, True), (1.01, False)], ids=["softmax", "softmax-times-1.01"])
def test_probabilities_times_101_percent_pass_for_logits(
    target: Target, factor: float, *, noticed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Guard: mixbench's own check that a model returns logits."""
    model = Wrapped(target.model, after=lambda logits: logits.softmax(1) * factor)
    short(model, ["apgd-ce"]).run_standard_evaluation(target.images, target.labels)
    assert warned(caplog, "probability distribution") is noticed


def test_three_classes_crash_targeted_apgd_after_a_warning(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    """Guard: mixbench refuses AutoAttack below four classes before any computation."""
    model = Wrapped(target.model, after=lambda logits: logits[:, :3])
    few = target.labels < 3
    library = short(model, ["apgd-ce", "apgd-t"], eps=0.01)
    with pytest.raises(IndexError):
        library.run_standard_evaluation(target.images[few], target.labels[few])
    assert warned(caplog, "with only 3 classes")


def test_more_targets_than_classes_crash_after_a_warning(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    """Nine targets stay the default with any number of classes. Guard: mixbench sets targets to at most classes - 1."""
    model = Wrapped(target.model, after=lambda logits: logits[:, :5])
    few = target.labels < 5
    library = short(model, ["apgd-t"], eps=0.01)
    library.apgd_targeted.n_target_classes = 9
    with pytest.raises(IndexError):
        library.run_standard_evaluation(target.images[few], target.labels[few])
    assert warned(caplog, "more target classes (9) than possible (4)")


def test_individual_mode_leaves_the_object_with_its_last_attack(target: Target) -> None:
    """Guard: mixbench builds a new object for each run."""
    library = short(target.model, STANDARD)
    library.run_standard_evaluation_individual(target.images[:4], target.labels[:4])
    assert library.attacks_to_run == ["square"]
    assert library.verbose is False


def test_a_run_is_silent_by_default(target: Target, capfd: pytest.CaptureFixture[str]) -> None:
    """Progress is logged at DEBUG. Guard: mixbench's own progress."""
    short(target.model, STANDARD).run_standard_evaluation(target.images[:8], target.labels[:8])
    assert capfd.readouterr() == ("", "")


def test_progress_names_each_attack_and_its_successes(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    """mixbench relies on the logger's name and on its wording."""
    caplog.set_level(logging.DEBUG, logger="auto-attack")
    _, predictions = short(target.model, STANDARD).run_standard_evaluation(target.images, target.labels)
    lines = [line for line in caplog.messages if line.endswith("successfully perturbed")]
    broken = sum(int(line.split(" - ")[2].split()[0]) for line in lines)
    clean = target.correct()
    assert [line.split(" - ")[0] for line in lines] == STANDARD
    assert broken == len(clean.labels) - (predictions == target.labels).sum()


def test_the_custom_version_keeps_five_restarts_and_needs_attacks(target: Target) -> None:
    """Guard: mixbench builds `standard`, with its one restart, and calls the searches itself."""
    assert AutoAttack(target.model).apgd.n_restarts == 1
    assert AutoAttack(target.model, version="custom", attacks=["apgd-ce"]).apgd.n_restarts == 5
    with pytest.raises(TypeError, match="not iterable"):
        AutoAttack(target.model, version="custom").run_standard_evaluation(target.images, target.labels)


def test_targeted_fab_fills_the_gradients_of_parameters(target: Target) -> None:
    """Memory and time for nothing. Guard: mixbench freezes parameters during an attack."""
    model = copy.deepcopy(target.model)
    sub_attack(short(model, ["fab-t"]), "fab-t")(target.images[:4], target.labels[:4])
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_square_writes_into_the_logits_it_was_given(target: Target) -> None:
    """The label's logit becomes minus infinity. Guard: a wrapper of mixbench keeps no logits without cloning them."""
    seen: list[Tensor] = []

    def keep(logits: Tensor) -> Tensor:
        seen.append(logits)
        return logits

    sub_attack(short(Wrapped(target.model, after=keep), ["square"]), "square")(target.images[:4], target.labels[:4])
    assert any(torch.isneginf(logits).any() for logits in seen)


@each_norm
@each_attack
def test_adversarials_leave_the_ball_and_the_box_by_rounding_alone(target: Target, attack: str, norm: str) -> None:
    """mixbench relies on it: its tolerance for a violation is no less than this."""
    for eps in (EPS[norm], 4 * EPS[norm]):
        library = short(target.model, [attack], norm=norm, eps=eps)
        adversarial, _ = library.run_standard_evaluation(target.images, target.labels)
        difference = (adversarial.double() - target.images.double()).flatten(1)
        distance = torch.linalg.vector_norm(difference, {"Linf": torch.inf, "L2": 2, "L1": 1}[norm], dim=1)
        assert distance.max() > 0.2 * eps
        assert distance.max() - eps < 1e-4 * eps + 1e-6
        assert adversarial.min() > -1e-6
        assert adversarial.max() < 1 + 1e-6


def test_square_in_l1_leaves_the_box(target: Target) -> None:
    """No clamp follows its projection: pixels reach 1 + 2**-22. Guard: the tolerance of mixbench's check of the box."""
    library = short(target.model, ["square"], norm="L1", eps=12)
    adversarial, _ = library.run_standard_evaluation(target.images, target.labels)
    assert 1 < adversarial.max() < 1 + 1e-6


def test_the_number_of_steps_is_another_attribute_in_l1(target: Target) -> None:
    """`n_iter` is overwritten from `n_iter_orig`. Guard: mixbench leaves both at 100 and counts passes from there."""
    library = short(target.model, ["apgd-ce"], norm="L1")
    library.apgd.n_iter, library.apgd.n_iter_orig = 1, 20
    sub_attack(library, "apgd-ce")(target.images[:4], target.labels[:4])
    assert library.apgd.n_iter == 8  # the last of three stages of 6, 6 and 8 steps


class Pooled(nn.Module):
    """Ten logits for images of any size."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None] * torch.arange(10.0)


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize(("side", "works"), [(4, False), (5, True)])
def test_square_divides_by_zero_below_five_pixels(norm: str, side: int, *, works: bool) -> None:
    """The first squares are a fifth of the height. Guard: mixbench refuses Square in L2 and L1 on such images."""
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    library = short(Pooled(), ["square"], norm=norm, eps=0.1)
    if works:
        assert library.run_standard_evaluation(images, torch.tensor([9, 9]))[0].shape == images.shape
    else:
        with pytest.raises(ZeroDivisionError):
            library.run_standard_evaluation(images, torch.tensor([9, 9]))


@each_norm
@each_attack
def test_one_remaining_example_is_attacked_like_any_other(target: Target, attack: str, norm: str) -> None:
    """mixbench relies on it: a block may have one survivor, alone or among examples that are wrong already."""
    clean = target.correct()
    model = Wrapped(target.model)
    images, labels = clean.images[:3], clean.labels[:3].clone()
    labels[0], labels[2] = (labels[0] + 1) % 10, (labels[2] + 1) % 10
    eps = 6 * EPS[norm]
    alone = short(model, [attack], norm=norm, eps=eps).run_standard_evaluation(images[1:2], labels[1:2])[0]
    among = short(model, [attack], norm=norm, eps=eps).run_standard_evaluation(images, labels)[0]
    assert torch.equal(among[[0, 2]], images[[0, 2]])
    assert torch.equal(among[1:2], alone)
    assert target.model(alone).argmax(1) != labels[1]
