import sys
from collections.abc import Iterator
from fractions import Fraction
from types import FrameType

import pytest
import torch

from mixbench.attacks import Passes
from mixbench.attacks.protocol import isolated, require_norm
from mixbench.errors import InvalidInputError
from mixbench.threat_model import Norm, ThreatModel


def tracer(frame: FrameType, event: str, argument: object) -> None:
    del frame, event, argument


@pytest.fixture
def traced() -> Iterator[None]:
    """A tracer of our own, as coverage and debuggers set one."""
    before = sys.gettrace()
    sys.settrace(tracer)
    yield
    sys.settrace(before)


class LibraryError(Exception):
    """Stands in for whatever a library raises."""


def run_like_a_library(*, fail: bool) -> None:
    with isolated(seed=7):
        torch.rand(3)
        sys.settrace(None)
        torch.set_grad_enabled(True)
        if fail:
            raise LibraryError


@pytest.mark.parametrize("fail", [False, True], ids=["success", "exception"])
@pytest.mark.usefixtures("traced")
def test_a_library_leaves_no_trace(*, fail: bool) -> None:
    state = torch.random.get_rng_state()
    try:
        run_like_a_library(fail=fail)
    except LibraryError:
        assert fail
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sys.gettrace() is tracer
    assert torch.is_grad_enabled()


def test_the_seed_decides_what_a_library_draws() -> None:
    draws: list[torch.Tensor] = []
    for seed in (7, 7, 8):
        torch.rand(1)
        with isolated(seed=seed):
            draws.append(torch.rand(5))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.gpu
def test_the_generators_of_cuda_are_left_alone_by_a_run_on_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    torch.cuda.init()
    state = torch.cuda.get_rng_state()
    with isolated(seed=7):
        torch.rand(1)
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_a_backward_pass_costs_two_forward_passes() -> None:
    assert Passes(forwards=5, backwards=3).work == 11


def test_a_norm_that_an_attack_lacks_is_refused_with_those_it_has() -> None:
    supported = (Norm.LINF, Norm.L2)
    require_norm("pgd", ThreatModel(Norm.L2, Fraction(1)), supported)
    with pytest.raises(InvalidInputError, match="pgd has no L1 version: use --norm Linf or L2, or the attack autoatt"):
        require_norm("pgd", ThreatModel(Norm.L1, Fraction(1)), supported)
