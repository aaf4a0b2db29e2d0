"""Faults and habits of foolbox 3.3.4 that mixbench is built around.

A canary that fails says that upstream changed: read its docstring, then remove or adapt the guard it names.
"""

import copy
import importlib
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.canaries.digits_model import Target, Wrapped

with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
    # The first two canaries show why foolbox is imported in this way.
    patch.setenv("GIT_PYTHON_REFRESH", "quiet")
    warnings.filterwarnings("ignore", message="Please import `gaussian_filter`", category=DeprecationWarning)
    foolbox: Any = importlib.import_module("foolbox")
    eagerpy: Any = importlib.import_module("eagerpy")
attacks = foolbox.attacks

pytestmark = pytest.mark.canary


@pytest.fixture
def right(target: Target) -> Target:
    """Twenty examples that the model gets right."""
    clean = target.correct()
    return Target(clean.model, clean.images[:20], clean.labels[:20])


def wrap(target: Target) -> Any:
    return foolbox.PyTorchModel(target.model, bounds=(0, 1), device="cpu")


def lengths(perturbation: Tensor) -> Tensor:
    return torch.linalg.vector_norm(perturbation.flatten(1), dim=1)


def import_foolbox(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Import foolbox in a fresh interpreter whose only environment is `environment`."""
    return subprocess.run(
        [sys.executable, *options, "-c", "import foolbox"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("refresh", "works"), [({}, False), ({"GIT_PYTHON_REFRESH": "quiet"}, True)], ids=["by-default", "quiet"]
)
def test_the_import_needs_a_git_executable(refresh: dict[str, str], *, works: bool, tmp_path: Path) -> None:
    """`foolbox.zoo` imports GitPython. Guard: mixbench sets GIT_PYTHON_REFRESH=quiet around the import."""
    result = import_foolbox(PATH=str(tmp_path), **refresh)
    assert (result.returncode == 0) is works
    assert ("Bad git executable" in result.stderr) is not works


def test_the_import_uses_a_name_that_scipy_2_removes() -> None:
    """Guard: mixbench silences this one DeprecationWarning; and scipy has to stay below 2."""
    result = import_foolbox("-W", "error::DeprecationWarning", GIT_PYTHON_REFRESH="quiet")
    assert result.returncode == 1
    assert "`scipy.ndimage.filters` namespace is deprecated" in result.stderr


def test_l2_fmn_projects_onto_no_ball() -> None:
    """The factor is `norms / norms`, hence 1. Guard: mixbench does not offer foolbox's L2 FMN."""
    start, end = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    projected = attacks.L2FMNAttack().project(
        *(eagerpy.astensor(tensor) for tensor in (end, start, torch.full((2,), 0.5)))
    )
    assert torch.equal(projected.raw, end)


def test_l2_fmn_finds_no_nearer_adversarials_with_more_steps(right: Target) -> None:
    """Its first step decides, so easy examples come out too far. Guard: mixbench does not offer foolbox's L2 FMN."""
    model = wrap(right)
    nearest = lengths(attacks.DDNAttack(steps=50)(model, right.images, right.labels, epsilons=None)[0] - right.images)
    short, long = (
        lengths(attacks.L2FMNAttack(steps=steps)(model, right.images, right.labels, epsilons=None)[0] - right.images)
        for steps in (50, 300)
    )
    assert long.median() > 0.99 * short.median()
    assert long.median() > 1.15 * nearest.median()
    assert long.quantile(0.25) > 1.5 * nearest.quantile(0.25)


@pytest.mark.parametrize("attack", [attacks.L2CarliniWagnerAttack, attacks.EADAttack], ids=["carlini-wagner", "ead"])
def test_a_failed_search_returns_black_images_as_successes(right: Target, attack: Any) -> None:
    """Guard: mixbench verifies each adversarial itself and does not offer these attacks."""
    raw, _, is_adversarial = attack(binary_search_steps=1, steps=2)(
        wrap(right), right.images, right.labels, epsilons=None
    )
    of_black = right.model(torch.zeros(1, 3, 8, 8)).argmax(1)
    assert not raw.any()
    assert torch.equal(is_adversarial, right.labels != of_black)
    assert is_adversarial.float().mean() > 0.5


def test_an_attack_fills_the_gradients_of_parameters(right: Target) -> None:
    """Half of each step for nothing. Guard: mixbench freezes parameters during an attack."""
    model = copy.deepcopy(right.model)
    wrapped = wrap(Target(model, right.images, right.labels))
    attacks.LinfPGD(steps=1)(wrapped, right.images, right.labels, epsilons=0.1)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_image_one_rounding_outside_the_bounds_is_a_bare_assertion(right: Target) -> None:
    """Guard: mixbench checks images itself, with a message, and cuts off rounding."""
    images = right.images.clone()
    images[0, 0, 0, 0] = 1.0000001
    with pytest.raises(AssertionError) as caught:
        attacks.LinfPGD(steps=1)(wrap(right), images, right.labels, epsilons=0.1)
    assert caught.value.args == ()


def test_examples_wrong_from_the_start_count_as_adversarial(target: Target) -> None:
    """Guard: mixbench attacks correct examples alone and judges by its own forward pass."""
    clean, _, is_adversarial = attacks.FGSM()(wrap(target), target.images, target.labels, epsilons=0.0)
    wrong = target.model(target.images).argmax(1) != target.labels
    assert torch.equal(clean, target.images)
    assert wrong.any()
    assert torch.equal(is_adversarial, wrong)


def test_pgd_starts_from_the_global_generator(right: Target) -> None:
    """Guard: mixbench forks and seeds the generators around each attack."""
    attack, model = attacks.LinfPGD(steps=1), wrap(right)
    found: list[Tensor] = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(attack(model, right.images, right.labels, epsilons=0.1)[0])
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_pgd_takes_no_seed(right: Target) -> None:
    """Guard: mixbench forks and seeds the generators around each attack."""
    with pytest.raises(TypeError, match="seed"):
        attacks.LinfPGD(seed=0)
    with pytest.raises(TypeError, match="seed"):
        attacks.LinfPGD()(wrap(right), right.images, right.labels, epsilons=0.1, seed=0)


@pytest.mark.parametrize("kind", ["clipped", "raw"])
def test_linf_leaves_the_ball_by_rounding_alone(right: Target, kind: str) -> None:
    """`x + clip(x' - x)` rounds a second time, by up to 2**-24 (6e-8). Guard: the tolerance of mixbench's check."""
    raw, clipped, _ = attacks.LinfPGD(steps=5)(wrap(right), right.images, right.labels, epsilons=0.1)
    adversarial = {"raw": raw, "clipped": clipped}[kind]
    excess = (adversarial.double() - right.images.double()).abs().max().item() - 0.1
    assert 0 < excess < 2**-24 + 1e-12
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1


@pytest.mark.parametrize(("attack", "order"), [(attacks.L2PGD, 2), (attacks.L1PGD, 1)], ids=["L2", "L1"])
def test_l2_and_l1_pgd_leave_the_ball_by_rounding_alone(right: Target, attack: Any, order: int) -> None:
    """mixbench relies on it: its tolerance for a violation is no less than this."""
    for eps in (0.01, 0.1, 1.0):
        raw, _, _ = attack(steps=5)(wrap(right), right.images, right.labels, epsilons=eps)
        distance = torch.linalg.vector_norm((raw.double() - right.images.double()).flatten(1), order, dim=1).max()
        assert 0.2 * eps < distance < eps + 1e-5 * eps + 1e-6


def test_each_eps_is_a_whole_run(right: Target) -> None:
    """No run starts where a smaller eps ended. Guard: mixbench goes upwards and leaves out what is broken."""
    sizes: list[int] = []

    def count(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images

    counted = wrap(Target(Wrapped(right.model, before=count).eval(), right.images, right.labels))
    attacks.LinfPGD(steps=4)(counted, right.images, right.labels, epsilons=[0.1, 0.5, 0.9])
    assert sizes == [20] * 3 * (4 + 1)


def test_an_empty_batch_crashes(right: Target) -> None:
    """Guard: mixbench calls no attack without examples."""
    with pytest.raises(RuntimeError, match="numel"):
        attacks.LinfPGD(steps=1)(wrap(right), right.images[:0], right.labels[:0], epsilons=0.1)


def test_a_function_is_no_model(right: Target) -> None:
    """Guard: the micro-batching wrapper of mixbench is an `nn.Module`."""
    with pytest.raises(ValueError, match=r"torch\.nn\.Module"):
        foolbox.PyTorchModel(right.model.forward, bounds=(0, 1))
