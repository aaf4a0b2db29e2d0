from fractions import Fraction
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from mixbench.attacks.autoattack import AutoAttackStage
from mixbench.attacks.fast.apgd import Apgd, ApgdSlots, _windows
from mixbench.attacks.fast.engine import Engine
from mixbench.attacks.fast.graph import PlainSteps
from mixbench.attacks.fast.search import Network, margins
from mixbench.attacks.fast.streams import example_keys
from mixbench.attacks.protocol import Passes
from mixbench.datasets import load_examples
from mixbench.errors import InvalidInputError
from mixbench.models import load_model
from mixbench.threat_model import Norm, ThreatModel
from tests.canaries.digits_model import digits_target
from tests.models_for_tests import as_floats, grey_levels, linear_model

LINEAR = linear_model()
IMAGES = as_floats(grey_levels(32))
LABELS = LINEAR(IMAGES).argmax(1)
NORMS = [Norm.LINF, Norm.L2]
Loss = Literal["ce", "dlr-targeted"]
REFERENCES = {"ce": APGDAttack, "dlr-targeted": APGDAttack_targeted}
each_norm = pytest.mark.parametrize("norm", NORMS)
each_loss = pytest.mark.parametrize("loss", ["ce", "dlr-targeted"])


def started(search: Apgd, network: Network, images: Tensor, labels: Tensor, eps: float) -> ApgdSlots:
    with torch.no_grad():
        logits = network(images)
    keys, radii = example_keys(images, labels, seed=0), torch.full((len(images),), eps, dtype=images.dtype)
    return search.start(images, labels, keys, logits, radii, run=torch.zeros_like(labels)).copied()


def judge(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return margins(model(images), labels)


@each_loss
@each_norm
def test_the_least_margin_of_a_linear_model_is_the_closed_form(norm: Norm, loss: Loss) -> None:
    """The margin of the clean image is the score, which an optimal perturbation lowers by eps times the dual norm."""
    eps, search = 0.02, Apgd(norm, loss)
    radii = torch.from_numpy(LINEAR.radii(IMAGES, norm))
    scores = judge(LINEAR, IMAGES, LABELS).double()
    dual = scores / radii
    under_way = PlainSteps(search, LINEAR, started(search, LINEAR, IMAGES, LABELS, eps))
    under_way.advance(101)
    torch.testing.assert_close(under_way.slots.margin.double(), scores - eps * dual, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(judge(LINEAR, under_way.slots.candidate, LABELS), under_way.slots.margin)


@each_loss
@each_norm
@pytest.mark.parametrize("rank", [1, 16, 31])
def test_verdicts_flip_at_the_closed_form_distance(norm: Norm, loss: Loss, rank: int) -> None:
    radii = LINEAR.radii(IMAGES, norm)
    distance = float(np.sort(radii)[rank])
    for eps in (distance * (1 - 1e-4), distance * (1 + 1e-4)):
        outcome = Engine(LINEAR, partial(judge, LINEAR)).run(
            Apgd(norm, loss), IMAGES, LABELS, LINEAR(IMAGES).detach(), ThreatModel(norm, Fraction(eps)), seed=0
        )
        np.testing.assert_array_equal(outcome.broken, radii < eps)


@each_norm
def test_candidates_keep_to_the_ball_and_the_box(norm: Norm) -> None:
    images = torch.rand((20, 1, 6, 6), generator=torch.Generator().manual_seed(0)).round(decimals=1)
    labels, search = LINEAR(images).argmax(1), Apgd(norm, "dlr-targeted")
    under_way = PlainSteps(search, LINEAR, started(search, LINEAR, images, labels, 0.2))
    order = {Norm.LINF: torch.inf, Norm.L2: 2}[norm]
    for _ in range(120):
        under_way.advance(1)
        iterate = under_way.slots.iterate
        sizes = torch.linalg.vector_norm((iterate.double() - images.double()).flatten(1), ord=order, dim=1)
        assert 0 <= iterate.min() <= iterate.max() <= 1
        assert sizes.max() <= 0.2 + ThreatModel(norm, Fraction(1, 5)).tolerance()
        assert torch.isfinite(iterate).all()


@each_loss
@each_norm
def test_a_run_is_the_reference_s_run_from_the_same_start(
    norm: Norm, loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 rounding does not pull the two apart: every step size, checkpoint and restart has to agree."""
    target = digits_target().correct()
    model, images = target.model.double(), target.images[:24].double()
    labels, eps = target.labels[:24], {Norm.LINF: 0.05, Norm.L2: 0.5}[norm]
    # The reference keeps its books in the default type.
    monkeypatch.setattr(torch, "zeros", partial(torch.zeros, dtype=torch.float64))
    search = Apgd(norm, loss)
    slots = started(search, model, images, labels, eps)
    reference: Any = REFERENCES[loss](model, norm=norm.value, eps=eps, device="cpu")
    reference.init_hyperparam(images)
    reference.y_target = slots.target
    best, robust, best_loss, _ = reference.attack_single_run(images, labels, x_init=slots.iterate)
    under_way = PlainSteps(search, model, slots)
    under_way.advance(101)
    torch.testing.assert_close(under_way.slots.best_loss, best_loss, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(under_way.slots.best, best.detach(), rtol=0, atol=1e-6)
    assert torch.equal(under_way.slots.margin < 0, ~robust)
    assert 0 < int(robust.sum()) < 24


@pytest.fixture(scope="module")
def digits_model() -> nn.Module:
    return load_model("convmixer_frozen.digits").module.requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def digits(digits_model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    """Return digits that the model gets right."""
    examples = load_examples("digits", data_dir=None, cache_dir=tmp_path_factory.mktemp("cache"), n_examples=64, seed=0)
    images, labels = as_floats(examples.images), torch.from_numpy(examples.labels)
    right = digits_model(images).argmax(1) == labels
    return images[right], labels[right]


@pytest.mark.parametrize(
    ("loss", "threat_model"),
    [("ce", "Linf 1/16"), ("ce", "L2 1/2"), ("dlr-targeted", "Linf 1/8"), ("dlr-targeted", "L2 3/5")],
)
def test_a_trained_network_withstands_what_it_withstands_by_the_reference(
    loss: Loss, threat_model: str, digits_model: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    """From other random starts a few examples at the edge may fall one way or the other."""
    images, labels = digits
    threat = ThreatModel.parse(threat_model)
    search = Apgd(threat.norm, loss)
    outcome = Engine(digits_model, partial(judge, digits_model), slots=128).run(
        search, images, labels, digits_model(images), threat, seed=0
    )
    reference = AutoAttackStage(search.name).perturb(digits_model, images, labels, threat, seed=0)
    broken = (digits_model(reference).argmax(1) != labels).numpy()
    assert 0 < broken.sum() < len(broken)
    assert (broken == outcome.broken).mean() >= 0.98
    assert outcome.broken.sum() >= broken.sum() - 1
    assert torch.equal(digits_model(outcome.adversarial).argmax(1) != labels, torch.from_numpy(outcome.broken))


@each_norm
def test_targets_are_the_likeliest_classes_and_each_run_starts_elsewhere(norm: Norm) -> None:
    """Of equal logits the label's counts as the largest."""
    logits = torch.tensor([[3.0, 1.0, 2.0, *range(-9, 0)], [5.0, 5.0, 4.0, *range(-9, 0)]])
    search, eps = Apgd(norm, "dlr-targeted"), torch.full((2,), 0.1)
    targets, starts = [], []
    for run in range(search.runs(12)):
        slots = search.start(IMAGES[:2], torch.tensor([0, 1]), LABELS[:2], logits, eps, run=torch.full((2,), run))
        targets.append(slots.target.tolist())
        starts.append(slots.iterate)
    assert targets == [[2, 0], [1, 2], *([number, number] for number in (11, 10, 9, 8, 7, 6, 5))]
    assert len(torch.cat(starts).unique(dim=0)) == 18
    order = {Norm.LINF: torch.inf, Norm.L2: 2}[norm]
    sizes = torch.linalg.vector_norm((torch.stack(starts) - IMAGES[:2]).flatten(2), ord=order, dim=2)
    torch.testing.assert_close(sizes, torch.full((9, 2), 0.1))


@pytest.mark.parametrize(
    ("loss", "num_classes", "runs"),
    [("ce", 10, 1), ("dlr-targeted", 4, 3), ("dlr-targeted", 10, 9), ("dlr-targeted", 1000, 9)],
)
def test_the_budget_is_the_standard_version_s(loss: Loss, num_classes: int, runs: int) -> None:
    search = Apgd(Norm.LINF, loss)
    assert (search.runs(num_classes), search.budget(num_classes)) == (runs, runs * 101)
    assert search.passes == Passes(1, 1)
    standard = AutoAttackStage(search.name).passes(ThreatModel(Norm.LINF, Fraction(1, 10)), num_classes=num_classes)
    assert standard.backwards == search.budget(num_classes)


@pytest.mark.parametrize(
    ("iterations", "checks"), [(100, [22, 41, 57, 70, 80, 87, 93, 99]), (10, [2, 3, 4, 5, 6, 7, 8, 9, 10])]
)
def test_step_sizes_are_checked_when_the_paper_says(iterations: int, checks: list[int]) -> None:
    """The paper's p_j, its section 3.2, are 0, 0.22 and p_j + max(p_j - p_j-1 - 0.03, 0.06) from there."""
    windows = _windows(iterations)
    assert [number for number, window in enumerate(windows) if window] == checks
    assert sum(windows) == checks[-1]


@each_norm
def test_a_network_that_overflows_once_does_not_spoil_the_run(norm: Norm) -> None:
    calls = 0

    def network(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        logits = LINEAR(images)
        return torch.where(nn.functional.one_hot(LABELS, 4).bool(), -torch.inf, logits) if calls == 3 else logits

    under_way = PlainSteps(search := Apgd(norm, "ce"), network, started(search, LINEAR, IMAGES, LABELS, 0.02))
    under_way.advance(101)
    assert torch.isfinite(under_way.slots.best_loss).all()
    scores = judge(LINEAR, IMAGES, LABELS).double()
    closed_form = scores * (1 - 0.02 / torch.from_numpy(LINEAR.radii(IMAGES, norm)))
    torch.testing.assert_close(under_way.slots.margin.double(), closed_form, rtol=1e-5, atol=2e-6)


def test_a_gradient_that_repeats_one_number_in_memory_is_no_obstacle() -> None:
    """As that of a sum over all pixels does."""

    def network(images: Tensor) -> Tensor:
        brightness = images.sum((1, 2, 3))[:, None]
        return torch.cat([18 - brightness, torch.zeros(len(images), 3)], dim=1)

    images, labels = torch.full((2, 1, 6, 6), 0.45), torch.zeros(2, dtype=torch.int64)
    under_way = PlainSteps(search := Apgd(Norm.LINF, "ce"), network, started(search, network, images, labels, 0.1))
    under_way.advance(101)
    torch.testing.assert_close(under_way.slots.margin, torch.full((2,), 18 - 36 * 0.55))


def test_l1_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no L1 version of Auto-PGD: use --norm Linf or --norm L2"):
        Apgd(Norm.L1, "ce")
