import logging
import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from pyautoattack import checks
from torch import Tensor, nn

from mixbench.attacks import AttackWarning, AutoAttack, Passes, Stage
from mixbench.attacks.autoattack import AutoAttackStage, bare_autoattack
from mixbench.errors import InvalidInputError
from mixbench.evaluation.metering import MeteredModel
from mixbench.threat_model import Norm, ThreatModel
from tests.canaries.digits_model import Wrapped
from tests.models_for_tests import as_floats, grey_levels, linear_model

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
IMAGES = as_floats(grey_levels(16))
LOGGER = logging.getLogger("auto-attack")

zero_gradients_are_expected = pytest.mark.filterwarnings("ignore:.*zero gradient:mixbench.attacks.AttackWarning")


def search(name: str, model: nn.Module, images: Tensor, labels: Tensor, threat_model: ThreatModel) -> np.ndarray:
    """Return which images the stage breaks."""
    adversarial = AutoAttackStage(name).perturb(model, images, labels, threat_model, seed=0)
    return (model(adversarial).argmax(1) != labels).numpy()


def coarse(model: nn.Module) -> nn.Module:
    """Return the model behind a quantisation, which gives no gradient: the searches have to share the work."""
    return Wrapped(model, before=lambda images: torch.round(images * 32) / 32).eval()


SQUARES = [
    pytest.param("square", Norm.LINF, 0.5, id="square-Linf"),
    pytest.param("square", Norm.L2, 0.25, marks=pytest.mark.slow, id="square-L2"),
    pytest.param("square", Norm.L1, 0.25, marks=pytest.mark.slow, id="square-L1"),
]


@zero_gradients_are_expected
@pytest.mark.parametrize(
    ("name", "norm", "reach"),
    [
        *(pytest.param(name, norm, 0.98, id=f"{name}-{norm.value}") for name in STAGES[:3] for norm in Norm),
        *SQUARES,
    ],
)
def test_a_search_breaks_what_the_closed_form_says_at_exactly_the_promised_cost(
    name: str, norm: Norm, reach: float
) -> None:
    """Square, which sees no gradient, is asked for a half or a quarter of the optimum only.

    Each example that survives must cost the promised passes, or the estimate of the work left would be wrong.
    """
    model, stage = linear_model(), AutoAttackStage(name)
    radii, labels = model.radii(IMAGES, norm), model(IMAGES).argmax(1)
    threat_model = ThreatModel(norm, Fraction(float(np.sort(radii)[7:9].mean())))
    eps, passes = float(threat_model.eps), stage.passes(threat_model, num_classes=4)
    metered = MeteredModel(model, images=IMAGES, num_classes=4, micro_batch=100)
    adversarial = stage.perturb(metered, IMAGES, labels, threat_model, seed=0)
    broken = (model(adversarial).argmax(1) != labels).numpy()
    assert broken[radii < reach * eps].all()
    assert not broken[radii > eps].any()
    assert set(metered.forwards[~broken]) == {passes.forwards}
    assert set(metered.backwards[~broken]) == {passes.backwards}


@zero_gradients_are_expected
@pytest.mark.parametrize(
    ("name", "num_classes", "targets"),
    [("apgd-t", 9, 8), ("apgd-t", 12, 9), ("fab-t", 5, 4)],
)
def test_there_are_as_many_targets_as_other_classes_up_to_nine(name: str, num_classes: int, targets: int) -> None:
    model = linear_model(num_classes=num_classes)
    images = IMAGES[[int(np.argmax(model.radii(IMAGES, Norm.LINF)))]]
    threat_model = ThreatModel(Norm.LINF, Fraction(1, 1000))
    metered = MeteredModel(model, images=images, num_classes=num_classes, micro_batch=1)
    AutoAttackStage(name).perturb(metered, images, model(images).argmax(1), threat_model, seed=0)
    steps = {"apgd-t": 101, "fab-t": 100}[name]
    assert metered.backwards.tolist() == [targets * steps]
    parameters = AutoAttack().parameters(threat_model, num_classes=num_classes)
    assert parameters[{"apgd-t": "apgd_targets", "fab-t": "fab_targets"}[name]] == str(targets)


@pytest.mark.parametrize(("num_classes", "targets"), [(4, 3), (10, 5)])
def test_targeted_apgd_has_five_targets_at_most_in_l1(num_classes: int, targets: int) -> None:
    threat_model = ThreatModel(Norm.L1, Fraction(1))
    assert AutoAttack().parameters(threat_model, num_classes=num_classes)["apgd_targets"] == str(targets)
    assert AutoAttackStage("apgd-t").passes(threat_model, num_classes=num_classes).backwards == targets * 103


@zero_gradients_are_expected
@pytest.mark.filterwarnings("ignore:.*Square Attack has decreased:mixbench.attacks.AttackWarning")
@pytest.mark.parametrize("norm", list(Norm))
def test_the_stages_repeat_the_bare_library_bit_for_bit(norm: Norm) -> None:
    """The model's quantisation hides its gradients, so that in Linf and L2 several searches have to share the work."""
    model = coarse(linear_model())
    labels = model(IMAGES).argmax(1)
    threat_model = ThreatModel(norm, {Norm.LINF: Fraction(1, 10), Norm.L2: Fraction(2, 3), Norm.L1: Fraction(6)}[norm])
    expected = bare_autoattack(model, IMAGES, labels, threat_model, seed=5, batch_size=len(IMAGES))
    found = AutoAttack().perturb(model, IMAGES, labels, threat_model, seed=5)
    assert (expected != IMAGES).flatten(1).any(1).sum() >= 12
    assert torch.equal(model(found).argmax(1), model(expected).argmax(1))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("broken", "doubted"), [(0, False), (2, False), (3, True)])
def test_square_raises_doubts_above_two_in_a_thousand(broken: int, *, doubted: bool) -> None:
    doubts = " ".join(AutoAttack().doubts({"apgd-ce": 500, "square": broken}, total=1000))
    assert ("a sign of masked gradients" in doubts) is doubted


@pytest.mark.parametrize("name", ["apgd-ce", "fab-t"])
def test_a_single_image_is_attacked_like_any_other(name: str) -> None:
    model = linear_model()
    labels = model(IMAGES[:1]).argmax(1)
    assert search(name, model, IMAGES[:1], labels, ThreatModel(Norm.L2, Fraction(1, 2))).all()


@zero_gradients_are_expected
def test_the_memory_format_of_the_images_makes_no_difference() -> None:
    """Targeted APGD is the search that takes views of its gradients."""
    model = linear_model((3, 6, 6))
    images = as_floats(grey_levels(6, (3, 6, 6)))
    labels, threat_model = model(images).argmax(1), ThreatModel(Norm.L2, Fraction(1, 3))
    perturb = partial(AutoAttackStage("apgd-t").perturb, model, threat_model=threat_model, seed=0)
    expected = perturb(images, labels)
    found = perturb(images.to(memory_format=torch.channels_last), labels)
    assert (expected != images).any()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_fewer_than_four_classes_are_refused(num_classes: int) -> None:
    with pytest.raises(
        InvalidInputError, match=f"has {num_classes} classes, .* at least 4: use --attack pgd"
    ) as caught:
        AutoAttack().check_fits(
            ThreatModel(Norm.LINF, Fraction(1, 10)), num_classes=num_classes, image_size=(3, 32, 32)
        )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("norm", [Norm.L2, Norm.L1])
def test_images_below_five_pixels_are_refused_in_l2_and_l1(norm: Norm) -> None:
    with pytest.raises(InvalidInputError, match=f"images of 4 pixels are too small for the {norm.value} version"):
        AutoAttack().check_fits(ThreatModel(norm, Fraction(1, 10)), num_classes=10, image_size=(3, 9, 4))
    AutoAttack().check_fits(ThreatModel(norm, Fraction(1, 10)), num_classes=10, image_size=(3, 9, 5))
    AutoAttack().check_fits(ThreatModel(Norm.LINF, Fraction(1, 10)), num_classes=10, image_size=(3, 9, 4))


def test_each_distinct_message_of_the_library_is_one_warning_that_names_the_stage() -> None:
    """The library repeats itself for each of two targets whose gradient is zero; the third breaks what it can."""
    model = linear_model()
    said: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: said.append(record.getMessage())
    LOGGER.addHandler(listener)
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            search("apgd-t", model, IMAGES, model(IMAGES).argmax(1), ThreatModel(Norm.LINF, Fraction(1, 1000)))
    finally:
        LOGGER.removeHandler(listener)
    assert len(said) > len(set(said)) >= 1
    assert [str(warning.message) for warning in heard] == [f"apgd-t: {message}" for message in dict.fromkeys(said)]
    assert {warning.category for warning in heard} == {AttackWarning}


def test_warnings_are_heard_where_the_program_logs_errors_only() -> None:
    model = linear_model()
    level = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    try:
        with pytest.warns(AttackWarning, match="zero gradient"):
            search("apgd-t", model, IMAGES, model(IMAGES).argmax(1), ThreatModel(Norm.LINF, Fraction(1, 1000)))
        assert LOGGER.level == logging.ERROR
    finally:
        LOGGER.setLevel(level)


class ModelError(Exception):
    """Stands in for whatever a model raises."""


def fail(images: Tensor) -> Tensor:
    del images
    raise ModelError


def nothing(images: Tensor) -> Tensor:
    return images


@pytest.mark.parametrize("before", [nothing, fail], ids=["success", "exception"])
def test_the_process_is_left_as_it_was_found(before: Callable[[Tensor], Tensor]) -> None:
    def state() -> tuple[object, ...]:
        generator = torch.random.get_rng_state().tolist()
        return (
            generator,
            tuple(LOGGER.handlers),
            LOGGER.propagate,
            LOGGER.disabled,
            LOGGER.level,
            torch.is_grad_enabled(),
        )

    model = linear_model()
    labels, expected = model(IMAGES).argmax(1), state()
    wrapped = Wrapped(model, before=before).eval()
    for run in (
        lambda: AutoAttackStage("apgd-ce").perturb(
            wrapped, IMAGES, labels, ThreatModel(Norm.LINF, Fraction(1, 50)), seed=0
        ),
        lambda: AutoAttack().inspect(wrapped, IMAGES, labels),
    ):
        try:
            run()
        except ModelError:
            assert before is fail
        else:
            assert before is nothing
        assert state() == expected


def gradient_inside(images: Tensor) -> Tensor:
    with torch.enable_grad():
        copied = images.detach().clone().requires_grad_()
        torch.autograd.grad(copied.sum(), copied)
    return images


def noise(images: Tensor) -> Tensor:
    return images + 0.1 * torch.randn_like(images)


def traits(model: nn.Module) -> list[str]:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        AutoAttack().inspect(model, IMAGES, linear_model()(IMAGES).argmax(1))
    return [str(warning.message) for warning in heard if warning.category is AttackWarning]


def test_a_dynamic_model_is_reported_and_does_not_brand_the_next_one() -> None:
    plain = linear_model()
    assert traits(plain) == []
    (found,) = traits(Wrapped(plain, before=gradient_inside).eval())
    assert "dynamic defense" in found
    assert traits(plain) == []


def test_what_other_runs_of_the_library_left_behind_brands_no_model_and_is_left_to_none() -> None:
    calls: dict[str, int] = checks.funcs
    before = dict(calls)
    calls.update(dict.fromkeys(calls, 1))
    try:
        assert traits(linear_model()) == []
        traits(Wrapped(linear_model(), before=gradient_inside).eval())
        assert set(calls.values()) == {0}
    finally:
        calls.update(before)


def test_a_randomised_model_is_reported() -> None:
    (found,) = traits(Wrapped(linear_model(), before=noise).eval())
    assert "randomized defense" in found


def test_the_stages_run_in_the_order_of_the_standard_version() -> None:
    stages: tuple[Stage, ...] = AutoAttack().stages
    assert tuple(stage.name for stage in stages) == STAGES


def test_the_passes_of_the_whole_attack_are_those_of_its_stages_and_their_judging() -> None:
    threat_model = ThreatModel(Norm.LINF, Fraction(1, 10))
    each = [stage.passes(threat_model, num_classes=10) for stage in AutoAttack().stages]
    assert each == [Passes(102, 101), Passes(919, 909), Passes(1828, 900), Passes(5003, 0)]
    assert AutoAttack().passes(threat_model, num_classes=10) == Passes(102 + 919 + 1828 + 5003 + 4, 1910)


@zero_gradients_are_expected
def test_square_with_fewer_queries_costs_fewer_and_begins_as_the_standard_one_does() -> None:
    """At most one query for each step of the search, after those for the start; what breaks early breaks either way."""
    model, threat_model = linear_model(), ThreatModel(Norm.LINF, Fraction(1, 1000))
    stage = AutoAttackStage("square", queries=50)
    metered = MeteredModel(model, images=IMAGES, num_classes=4, micro_batch=100)
    adversarial = stage.perturb(metered, IMAGES, model(IMAGES).argmax(1), threat_model, seed=0)
    robust = (model(adversarial).argmax(1) == model(IMAGES).argmax(1)).numpy()
    assert robust.sum() > 10
    assert set(metered.forwards[robust]) == {stage.passes(threat_model, num_classes=4).forwards} == {53}
    assert AutoAttackStage("square").passes(threat_model, num_classes=4).forwards == 5003
