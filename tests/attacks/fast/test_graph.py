"""When a search goes over from steps as written to a graph; the graphs themselves need a CUDA device."""

import pytest
import torch

from mixbench.attacks.fast.apgd import Apgd, ApgdSlots
from mixbench.attacks.fast.graph import AS_WRITTEN, EventuallyGraphed, PlainSteps, Steps
from mixbench.attacks.fast.streams import example_keys
from mixbench.threat_model import Norm
from tests.attacks.fast.networks import rowwise_network
from tests.models_for_tests import as_floats, grey_levels

NETWORK = rowwise_network(36)
SEARCH = Apgd(Norm.LINF, "ce")


def started() -> ApgdSlots:
    images = as_floats(grey_levels(6))
    logits = NETWORK(images)
    labels = logits.argmax(1)
    eps = torch.full((6,), 0.02)
    return SEARCH.start(images, labels, example_keys(images, labels, seed=0), logits, eps, run=torch.zeros_like(labels))


@pytest.mark.parametrize("strides", [[1, 2, 4], [3, AS_WRITTEN - 3], [AS_WRITTEN + 5, 2], [5, 9, 16]], ids=str)
def test_no_step_is_lost_or_made_twice_where_the_graph_takes_over(strides: list[int]) -> None:
    captured: list[int] = []

    def capture(slots: ApgdSlots) -> Steps[ApgdSlots]:
        captured.append(int(slots.steps[0]))
        return PlainSteps(SEARCH, NETWORK, slots)

    eventually = EventuallyGraphed(PlainSteps(SEARCH, NETWORK, started()), capture)
    written = PlainSteps(SEARCH, NETWORK, started())
    for stride in strides:
        eventually.advance(stride)
        written.advance(stride)
        for own, other in zip(eventually.slots.tensors(), written.slots.tensors(), strict=True):
            assert torch.equal(own, other)
    assert captured == ([AS_WRITTEN] if sum(strides) > AS_WRITTEN else [])
