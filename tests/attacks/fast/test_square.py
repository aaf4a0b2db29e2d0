import math
from collections.abc import Iterator
from dataclasses import fields
from fractions import Fraction
from typing import Any

import numpy as np
import pyautoattack
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from mixbench.attacks.autoattack import AutoAttackStage
from mixbench.attacks.fast.search import Network
from mixbench.attacks.fast.square import Square
from mixbench.attacks.fast.square_l2 import window_shape
from mixbench.attacks.fast.square_windows import as_signs, draw_queries, draw_start, window_sides
from mixbench.attacks.fast.streams import example_keys
from mixbench.errors import InvalidInputError
from mixbench.threat_model import Norm, ThreatModel
from tests.attacks.fast.networks import rowwise_network
from tests.attacks.fast.searches_for_tests import finished, random_images, started, zoo_digits

NORMS = [Norm.LINF, Norm.L2]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Tensor, Tensor]:
    return zoo_digits(tmp_path_factory.mktemp("cache"))


def reference(network: Network, norm: Norm, eps: float, queries: int) -> SquareAttack:
    """Return what AutoAttack runs, made as AutoAttack makes it: without compressing the schedule."""
    return SquareAttack(
        network, norm=norm.value, eps=eps, n_queries=queries, resc_schedule=False, device=torch.device("cpu")
    )


class Scripted(SquareAttack):
    """The reference on one example, with the numbers that our streams draw for it in place of its own.

    Only what is random is replaced: corners, signs, and which way a shape is turned.
    """

    def __init__(self, network: Network, norm: Norm, eps: float, queries: int, *, key: Tensor, image: Tensor) -> None:
        super().__init__(
            network, norm=norm.value, eps=eps, n_queries=queries, resc_schedule=False, device=torch.device("cpu")
        )
        self.ndims = image.ndim
        channels, height, width = image.shape
        corners = 2 if norm is Norm.LINF else 4
        numbers = range(corners + (norm is Norm.L2) + channels)
        draws = [draw_queries(key, queries, number)[0].tolist() for number in numbers]
        self.corners = iter([number for query in zip(*draws[:corners], strict=True) for number in query])
        self.turns: Iterator[float] = iter(())
        signs = torch.tensor(draws[-channels:]).T
        if norm is Norm.LINF:
            start = draw_start(key, channels * width).view(1, channels, 1, width)
        else:
            grid = (height // (height // 5), width // (height // 5))
            drawn = draw_start(key, (1 + channels) * math.prod(grid)).view(1 + channels, -1).T
            self.turns = iter([*drawn[:, 0].tolist(), *draws[4]])
            start = drawn[:, 1:]
        each = [start] if norm is Norm.LINF else [*start]
        self.signs = iter([as_signs(numbers).float() for numbers in [*each, *signs]])

    def random_int(self, low: int = 0, high: int = 1, shape: Any = None) -> Tensor:
        del shape
        return (low + (high - low) * torch.tensor([next(self.corners)])).long()

    def random_choice(self, shape: Any) -> Tensor:
        return next(self.signs).reshape(shape)

    def eta(self, s: int) -> Tensor:
        shape = super().eta(s)
        upright = shape if s == 1 or shape[0].sum() > 0 > shape[-1].sum() else shape.T
        return upright.T if next(self.turns) < 1 / 2 else upright


@pytest.mark.parametrize(
    ("norm", "eps", "image_size"),
    [
        (Norm.LINF, 0.015, (1, 8, 8)),
        (Norm.LINF, 0.01, (3, 11, 10)),
        (Norm.L2, 0.1, (1, 8, 8)),
        (Norm.L2, 0.1, (3, 11, 10)),
    ],
)
def test_with_the_same_random_numbers_the_reference_finds_the_same_images(
    norm: Norm, eps: float, image_size: tuple[int, int, int]
) -> None:
    """Query by query, over five of the schedule's sides.

    One image may go another way, where rounding decides: two margins are equal but for it, or in L2 a shape meets its
    own opposite, and what is left of both is scaled up.
    """
    search, network = Square(norm, queries=550), rowwise_network(math.prod(image_size))
    images = random_images(5, image_size, seed=3)
    labels = network(images).argmax(1)
    slots = finished(search, network, images, labels, torch.full((5,), eps))
    resisted = torch.nonzero(slots.margin > 0).flatten().tolist()
    assert len(resisted) >= 3
    same = []
    for row in resisted:
        scripted = Scripted(network, norm, eps, 550, key=slots.keys[row : row + 1], image=images[row])
        with torch.random.fork_rng():
            _, found = scripted.attack_single_run(images[row : row + 1], labels[row : row + 1])
        same.append(torch.allclose(slots.candidate[row], found[0], rtol=0, atol=2e-5))
    assert same.count(False) <= 1


@pytest.mark.parametrize(("norm", "eps"), [(Norm.LINF, 0.06), (Norm.L2, 0.4)])
def test_as_many_digits_resist_as_with_the_reference(
    digits: tuple[nn.Module, Tensor, Tensor], norm: Norm, eps: float
) -> None:
    """The draws differ, so counts over seeds are compared: their means within 4 standard errors, plus one digit.

    The windows of the reference are common to a batch, so its counts scatter more than a binomial's: the errors are
    estimated from the counts themselves.
    """
    model, images, labels = digits
    threat_model = ThreatModel(norm, Fraction(eps))
    ours, theirs = [], []
    for seed in range(4):
        slots = finished(Square(norm, queries=100), model, images, labels, torch.full((len(images),), eps), seed=seed)
        ours.append(int((slots.margin > 0).sum()))
        found = AutoAttackStage("square", queries=100).perturb(model, images, labels, threat_model, seed=seed)
        theirs.append(int((model(found).argmax(1) == labels).sum()))
    error = math.sqrt((np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / len(ours))
    assert max(theirs) < len(images)
    assert abs(np.mean(ours) - np.mean(theirs)) <= 1 + 4 * error


def test_the_sides_are_those_of_the_paper() -> None:
    """p = 0.8, halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries; 32 x 32 pixels."""
    sides = window_sides(10_000, 32, 32, least=1)
    changes = {query: side for query, side in enumerate(sides) if query == 0 or side != sides[query - 1]}
    assert changes == {0: 29, 11: 20, 51: 14, 201: 10, 501: 7, 1001: 5, 2001: 4, 4001: 3, 6001: 2, 8001: 1}


def test_the_schedule_is_that_of_autoattack_whatever_the_number_of_queries() -> None:
    for queries in (1, 200, 5000):
        oracle = pyautoattack.AutoAttack(rowwise_network(4), norm="Linf", eps=0.1, device="cpu").square
        oracle.n_queries = queries
        expected = tuple(max(round(math.sqrt(oracle.p_selection(query) * 28 * 28)), 1) for query in range(queries))
        assert window_sides(queries, 28, 28, least=1) == expected


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 11, 29])
def test_shapes_are_those_of_the_reference_up_to_a_turn(side: int) -> None:
    with torch.random.fork_rng():
        expected = reference(rowwise_network(64), Norm.L2, 1.0, 10).eta(side)
    ours = window_shape(side).float()
    assert any(torch.allclose(turned, expected, atol=1e-6) for turned in (ours, ours.T))


@given(
    norm=st.sampled_from(NORMS),
    eps=st.floats(0.001, 1),
    image_size=st.tuples(st.integers(1, 3), st.integers(5, 12), st.integers(5, 12)),
    seed=st.integers(0, 1000),
)
def test_queries_never_leave_the_ball_and_the_box(
    norm: Norm, eps: float, image_size: tuple[int, int, int], seed: int
) -> None:
    images, inner = random_images(3, image_size, seed=seed), rowwise_network(math.prod(image_size))
    asked: list[Tensor] = []

    def network(queries: Tensor) -> Tensor:
        asked.append(queries)
        return inner(queries)

    slots = started(Square(norm, queries=12), network, images, inner(images).argmax(1), torch.full((3,), eps))
    asked.clear()
    for _ in range(13):
        Square(norm, queries=12).step(network, slots)
    perturbations = torch.stack(asked).double() - images.double()
    sizes = torch.linalg.vector_norm(perturbations.flatten(2), ord=torch.inf if norm is Norm.LINF else 2, dim=2)
    # A sum of two float32 numbers below 2 is rounded by at most 6e-8.
    assert (sizes <= eps * (1 + 1e-6) + 6e-8).all()
    assert all(((queries >= 0) & (queries <= 1)).all() for queries in asked)


def test_a_query_changes_one_window_of_the_candidate_to_the_faces_of_the_ball() -> None:
    images, inner = random_images(6, (3, 9, 9)), rowwise_network(243)
    search, eps = Square(Norm.LINF, queries=300), 0.1
    slots = started(search, inner, images, inner(images).argmax(1), torch.full((6,), eps))
    faces = torch.stack([(images - eps).clamp(0, 1), (images + eps).clamp(0, 1)])
    places = torch.arange(1, 10)
    for side in (0, *window_sides(300, 9, 9, least=1)):
        before, asked = slots.candidate.clone(), []
        search.step(lambda queries, asked=asked: asked.append(queries) or inner(queries), slots)
        assert (asked[0] == faces).any(0).all()
        changed = (asked[0] != before).any(1)
        for axis in (1, 2):
            touched = changed.any(axis)
            spans = (touched * places).amax(1) + (touched * (10 - places)).amax(1) - 9
            assert (spans <= side).all()


@pytest.mark.parametrize("norm", NORMS)
def test_every_place_that_a_window_can_take_is_taken_equally_often(norm: Norm) -> None:
    """Sides of 3 in images of 8 pixels: first rows and columns 0 to 4, of which chi-squared tests doubt none."""
    keys = torch.arange(20)
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    slots = Square(norm).start(
        images, torch.zeros(20, dtype=torch.int64), keys, torch.rand(20, 4), torch.ones(20), run=keys
    )
    side, *numbers = slots.plan.flatten(0, 1).T
    of_three = side == 3
    corners = torch.stack([(centre[of_three] - 2) // 2 for centre in numbers[: 2 if norm is Norm.LINF else 4]])
    counts = torch.stack([(corners == place).sum(1) for place in range(5)]).double()
    assert (counts.sum(0) == of_three.sum()).all()
    expected = counts.sum(0) / 5
    # The 0.9999 quantile of chi-squared with 4 degrees of freedom.
    assert (((counts - expected) ** 2 / expected).sum(0) < 23.5).all()
    signs = slots.plan[:, 1:, -1].double()
    assert set(signs.unique().tolist()) == {-1, 1}
    assert signs.mean().abs() < 4 / math.sqrt(signs.numel())


@pytest.mark.parametrize("norm", NORMS)
def test_rows_do_not_see_each_other(norm: Norm) -> None:
    """Bit for bit: draws and verdicts are the same in another order, beside others, and when entering late."""
    search, network = Square(norm, queries=40), rowwise_network(98)
    images = random_images(12, (2, 7, 7))
    labels = network(images).argmax(1)
    eps = torch.linspace(0.02, 0.2, 12)
    together = finished(search, network, images, labels, eps)
    order = torch.tensor([5, 3, 11])
    late = started(search, network, images[:3], labels[:3], eps[:3])
    for _ in range(5):
        search.step(network, late)
    late.put(torch.arange(3), started(search, network, images[order], labels[order], eps[order]))
    for _ in range(search.budget(5)):
        search.step(network, late)
    for field in fields(late):
        assert torch.equal(getattr(late, field.name), getattr(together, field.name)[order]), field.name


def test_other_seeds_and_other_examples_draw_other_windows() -> None:
    images = random_images(2, (1, 8, 8))
    labels = torch.zeros(2, dtype=torch.int64)
    plans = [
        Square(Norm.LINF, queries=100)
        .start(images, labels, example_keys(images, labels, seed=seed), torch.rand(2, 4), torch.ones(2), run=labels)
        .plan
        for seed in (0, 1)
    ]
    rows = torch.cat(plans)[:, :, 1:]
    same = [(rows[i] == rows[j]).float().mean().item() for i in range(4) for j in range(i)]
    assert max(same) < 0.5


def test_the_budget_is_one_step_more_than_queries_and_steps_past_it_are_harmless() -> None:
    assert Square(Norm.LINF).budget(10) == 5001
    search, network, images = Square(Norm.L2, queries=3), rowwise_network(36), random_images(4, (1, 6, 6))
    slots = finished(search, network, images, network(images).argmax(1), torch.full((4,), 0.5))
    before = slots.margin.clone()
    for _ in range(3):
        search.step(network, slots)
    assert (slots.margin <= before).all()
    assert slots.candidate.isfinite().all()


def test_there_is_no_l1_version() -> None:
    with pytest.raises(InvalidInputError, match="no L1 version of Square"):
        Square(Norm.L1)
