from dataclasses import fields

import numpy as np
import pytest
import torch
from pyautoattack.fab_pt import FABAttack_PT
from scipy.optimize import brentq
from torch import Tensor, nn

from mixbench.attacks.fast.fab import Fab
from mixbench.errors import InvalidInputError
from mixbench.threat_model import Norm
from tests.attacks.fast.networks import rowwise_network
from tests.attacks.fast.searches_for_tests import (
    finished,
    least_margins,
    random_images,
    started,
    zoo_digits,
)
from tests.models_for_tests import LinearModel

NORMS = [Norm.LINF, Norm.L2]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Tensor, Tensor]:
    return zoo_digits(tmp_path_factory.mktemp("cache"))


def linear_case(n: int = 40) -> tuple[LinearModel, Tensor, Tensor]:
    """Return a linear model and images near its boundary, many of whose pixels can move one way only."""
    generator = torch.Generator().manual_seed(1)
    images = random_images(n, (1, 6, 6))
    model = LinearModel(torch.randn(1, 6, 6, generator=generator))
    return model, images, model(images).argmax(1)


def radius(model: LinearModel, image: Tensor, norm: Norm) -> float:
    """Return how far the boundary is within the box: where the best perturbation of a growing radius meets it.

    In Linf every pixel goes as far as it can; in L2 in proportion to its weight, as far as it can.
    """
    weights = model.weights.detach().double().flatten().numpy()
    pixels = image.double().flatten().numpy()
    score = float(weights @ (pixels - 0.5))
    direction = -np.sign(score) * weights
    room = np.where(direction > 0, 1 - pixels, pixels)
    speed = np.ones_like(room) if norm is Norm.LINF else np.abs(weights)
    time = brentq(lambda t: abs(score) - np.abs(weights) @ np.minimum(t * speed, room), 0, 1e3, xtol=1e-14)
    return float(np.linalg.norm(np.minimum(time * speed, room), ord=np.inf if norm is Norm.LINF else 2))


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_model_breaks_just_above_the_closed_form_radius_and_not_below(norm: Norm) -> None:
    """FAB oscillates about the boundary by its overshoot and retreat: within 1% is as near as it comes."""
    model, images, labels = linear_case()
    radii = torch.tensor([radius(model, image, norm) for image in images])
    assert (radii > 1.02 * torch.from_numpy(model.radii(images, norm)).float()).any(), "the box must matter"
    for share, broken in ((0.999, False), (1.01, True)):
        assert ((least_margins(Fab(norm), model, images, labels, share * radii) < 0) == broken).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_network_is_asked_about_the_images_that_the_reference_asks_about(norm: Norm) -> None:
    smooth, images = rowwise_network(64), random_images(20, (1, 8, 8))

    def inner(asked: Tensor) -> Tensor:
        # Where the network bends as much as here, the pull of the clean image reaches its bound.
        return smooth(0.5 + 4 * (asked - 0.5))

    labels = inner(images).argmax(1)
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    search = Fab(norm, iterations=30)
    slots = started(search, inner, images, labels, torch.full((20,), 0.1))
    for _ in range(30):
        search.step(lambda asked: ours.append(asked.detach().clone()) or inner(asked), slots)
    reference = FABAttack_PT(
        lambda asked: theirs.append(asked.detach().clone()) or inner(asked),
        norm=norm.value,
        n_iter=30,
        eps=0.1,
        targeted=True,
        n_target_classes=1,
        device=images.device,
    )
    with torch.random.fork_rng():
        reference.perturb(images, labels)
    # It asks three times about the clean images before the first iteration, and once about its result.
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs[3:-1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("norm", "eps"), [(Norm.LINF, 0.06), (Norm.L2, 0.4)])
def test_verdicts_on_a_trained_network_are_those_of_the_reference(
    digits: tuple[nn.Module, Tensor, Tensor], norm: Norm, eps: float
) -> None:
    model, images, labels = digits
    search = Fab(norm, iterations=25, targets=3)
    broken = least_margins(search, model, images, labels, torch.full((len(images),), eps)) < 0
    reference = FABAttack_PT(
        model,
        norm=norm.value,
        n_restarts=1,
        n_iter=25,
        eps=eps,
        targeted=True,
        n_target_classes=3,
        device=images.device,
    )
    with torch.random.fork_rng():
        expected = model(reference.perturb(images, labels)).argmax(1) != labels
    assert 0.2 < expected.float().mean() < 0.8
    assert (broken == expected).float().mean() >= 0.98


@pytest.mark.parametrize("norm", NORMS)
def test_candidates_lie_within_the_threat_model_and_are_what_their_margin_says(norm: Norm) -> None:
    network = rowwise_network(36)
    images = random_images(30, (1, 6, 6))
    labels = network(images).argmax(1)
    eps = torch.linspace(0.001, 0.2, 30) * (1 if norm is Norm.LINF else 5)
    slots = finished(Fab(norm, iterations=20), network, images, labels, eps)
    order = torch.inf if norm is Norm.LINF else 2
    sizes = torch.linalg.vector_norm((slots.candidate.double() - images.double()).flatten(1), ord=order, dim=1)
    assert (sizes <= eps.double() * (1 + 1e-6)).all()
    assert ((slots.candidate >= 0) & (slots.candidate <= 1)).all()
    seen = slots.margin.isfinite()
    assert 0 < (slots.margin < 0).sum() < 30
    assert torch.equal((network(slots.candidate).argmax(1) != labels)[seen], slots.margin[seen] < 0)


@pytest.mark.parametrize("norm", NORMS)
def test_rows_do_not_see_each_other(norm: Norm) -> None:
    """Bit for bit: in another order, beside other examples and runs, and entering when these are under way."""
    search, network = Fab(norm, iterations=15), rowwise_network(25)
    images = random_images(12, (1, 5, 5))
    labels = network(images).argmax(1)
    eps = torch.full((12,), 0.05)
    together = finished(search, network, images, labels, eps, run=1)
    order = torch.tensor([5, 3, 11])
    late = started(search, network, images[:4], labels[:4], eps[:4], run=2)
    for _ in range(5):
        search.step(network, late)
    late.put(torch.arange(1, 4), started(search, network, images[order], labels[order], eps[order], run=1))
    for _ in range(15):
        search.step(network, late)
    for field in fields(late):
        assert torch.equal(getattr(late, field.name)[1:], getattr(together, field.name)[order]), field.name


def test_runs_aim_at_the_classes_likeliest_after_the_true_one() -> None:
    logits = torch.tensor([[0.0, 3, 1, 4, 2], [5, 1, 4, 2, 3]])
    images, labels = torch.rand(2, 1, 3, 3), torch.tensor([3, 0])
    search = Fab(Norm.LINF, targets=3)
    targets = [
        search.start(images, labels, labels, logits, torch.ones(2), run=torch.full((2,), run)).target.tolist()
        for run in range(search.runs(5))
    ]
    assert targets == [[1, 2], [4, 4], [2, 3]]


def test_the_standard_budget_is_a_hundred_iterations_for_each_of_nine_targets() -> None:
    assert [Fab(Norm.LINF).budget(classes) for classes in (4, 10, 100)] == [300, 900, 900]


def test_overflowing_gradients_and_steps_past_the_run_leave_the_state_finite() -> None:
    def network(images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        return torch.where(pixels[:, :1] > 0.5, pixels[:, :4] * torch.inf, pixels[:, :4] * 100)

    images = torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    search = Fab(Norm.L2, iterations=3)
    slots = finished(search, network, images, torch.zeros(6, dtype=torch.int64), torch.full((6,), 0.5))
    for _ in range(3):
        search.step(network, slots)
    assert slots.iterate.isfinite().all()
    assert slots.candidate.isfinite().all()


def test_there_is_no_l1_version() -> None:
    with pytest.raises(InvalidInputError, match="no L1 version of FAB"):
        Fab(Norm.L1)
