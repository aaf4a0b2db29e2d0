"""What must hold on a CUDA device; skipped where there is none."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from mixbench.attacks.fast.apgd import Apgd
from mixbench.attacks.fast.engine import Engine, Outcome
from mixbench.attacks.fast.fab import Fab
from mixbench.attacks.fast.graph import GraphedSteps, PlainSteps
from mixbench.attacks.fast.search import Search
from mixbench.attacks.fast.square import Square
from mixbench.attacks.fast.streams import example_keys, normal, uniform
from mixbench.threat_model import Norm, ThreatModel
from tests.attacks.fast.networks import judged_by, rowwise_network
from tests.models_for_tests import as_floats, grey_levels, linear_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

IMAGES = as_floats(grey_levels(40))
SEARCHES = [Apgd(Norm.LINF, "ce"), Apgd(Norm.L2, "ce"), Apgd(Norm.LINF, "dlr-targeted"), Apgd(Norm.L2, "dlr-targeted")]
SHORT = [*SEARCHES, Fab(Norm.LINF), Fab(Norm.L2), Square(Norm.LINF, queries=200), Square(Norm.L2, queries=200)]
each_search = pytest.mark.parametrize("search", SEARCHES, ids=lambda search: f"{search.name}-{search.norm}")


def run(engine: Engine, search: Apgd, threat_model: ThreatModel, *, device: str = "cuda") -> Outcome:
    network = rowwise_network(36, device=device)
    images = IMAGES.to(device)
    logits = network(images)
    return engine.run(search, images, logits.argmax(1), logits, threat_model, seed=0)


@pytest.mark.parametrize("search", SHORT, ids=lambda search: f"{search.name}-{search.norm}")
def test_replaying_a_graph_is_the_step_itself_bit_for_bit(search: Search[Any]) -> None:
    """Past several checks of the step size; then once more from the start, at half the radius."""
    network, images = rowwise_network(36, device="cuda"), IMAGES.cuda()
    logits = network(images)
    labels = logits.argmax(1)
    keys, eps = example_keys(images, labels, seed=0), torch.full((40,), 0.02, device="cuda")
    slots = search.start(images, labels, keys, logits, eps, run=labels % search.runs(5))
    graphed = GraphedSteps(search, network, slots, pool=torch.cuda.graph_pool_handle())
    for _ in range(2):
        plain = PlainSteps(search, network, slots)
        plain.advance(101)
        graphed.advance(101)
        assert int(plain.slots.steps[0]) == 101
        for own, other in zip(graphed.slots.tensors(), plain.slots.tensors(), strict=True):
            assert torch.equal(own, other)
        slots = search.start(images, labels, keys, logits, eps / 2, run=labels % search.runs(5))
        graphed.restart(slots)


@each_search
def test_one_graph_a_width_serves_every_radius_and_run(search: Apgd) -> None:
    network = rowwise_network(36, device="cuda")
    engine = Engine(network, judged_by(network), slots=32)
    plain = Engine(network, judged_by(network), slots=32, graphs=False)
    counts: list[int] = []
    for denominator in (100, 200, 50):
        threat_model = ThreatModel(search.norm, Fraction(1, denominator) * (1 if search.norm is Norm.LINF else 4))
        graphed, written = (run(each, search, threat_model) for each in (engine, plain))
        np.testing.assert_array_equal(graphed.broken, written.broken)
        np.testing.assert_array_equal(graphed.forwards, written.forwards)
        assert torch.equal(graphed.adversarial, written.adversarial)
        counts.append(len(engine._graphed))
    assert 1 <= counts[0] <= counts[-1] <= 3


@each_search
def test_verdicts_are_those_of_the_cpu(search: Apgd) -> None:
    threat_model = ThreatModel(search.norm, Fraction(1, 100) if search.norm is Norm.LINF else Fraction(1, 25))
    outcomes = [
        run(Engine(network, judged_by(network)), search, threat_model, device=device)
        for device in ("cpu", "cuda")
        for network in [rowwise_network(36, device=device)]
    ]
    assert outcomes[0].broken.any()
    assert (outcomes[0].broken == outcomes[1].broken).mean() >= 0.95


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_a_linear_model_is_broken_where_the_closed_form_says(norm: Norm) -> None:
    model, images = linear_model().cuda(), IMAGES.cuda()
    radii = linear_model().radii(IMAGES, norm)
    logits = model(images).detach()
    for rank in (1, 20, 38):
        eps = float(np.sort(radii)[rank : rank + 2].mean())
        outcome = Engine(model, judged_by(model)).run(
            Apgd(norm, "ce"), images, logits.argmax(1), logits, ThreatModel(norm, Fraction(eps)), seed=0
        )
        np.testing.assert_array_equal(outcome.broken, radii < eps)


def test_random_numbers_are_those_of_the_cpu() -> None:
    labels = torch.arange(40) % 5
    keys = example_keys(IMAGES, labels, seed=0)
    assert torch.equal(example_keys(IMAGES.cuda(), labels.cuda(), seed=0).cpu(), keys)
    assert torch.equal(uniform(keys.cuda(), labels.cuda(), 75).cpu(), uniform(keys, labels, 75))
    torch.testing.assert_close(
        normal(keys.cuda(), labels.cuda(), 75).cpu(), normal(keys, labels, 75), rtol=1e-12, atol=1e-14
    )
