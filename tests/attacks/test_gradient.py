import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbench.attacks import FGSM, PGD, Attack, Passes
from mixbench.errors import InvalidInputError
from mixbench.threat_model import Norm, ThreatModel
from tests.canaries.digits_model import Wrapped
from tests.models_for_tests import as_floats, grey_levels, linear_model

each_attack = pytest.mark.parametrize("attack", [FGSM(), PGD()], ids=["fgsm", "pgd"])
each_norm = pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
MODEL = linear_model()
IMAGES = as_floats(grey_levels(64))
LABELS = MODEL(IMAGES).argmax(1)


def between(radii: np.ndarray, rank: int) -> Fraction:
    """Return an eps over exactly `rank` of the radii, in the middle between two of them."""
    low, high = np.sort(radii)[rank - 1 : rank + 1]
    return Fraction(float(low + high) / 2)


def broken(attack: Attack, threat_model: ThreatModel, *, seed: int = 0, model: nn.Module = MODEL) -> np.ndarray:
    adversarial = attack.perturb(model, IMAGES, LABELS, threat_model, seed=seed)
    return (model(adversarial).argmax(1) != LABELS).numpy()


@each_norm
@pytest.mark.parametrize("rank", [1, 20, 63])
def test_fgsm_breaks_a_linear_model_exactly_where_the_closed_form_does(norm: Norm, rank: int) -> None:
    radii = MODEL.radii(IMAGES, norm)
    eps = between(radii, rank)
    np.testing.assert_array_equal(broken(FGSM(), ThreatModel(norm, eps)), radii < eps)


@each_norm
@pytest.mark.parametrize("seed", [0, 1])
def test_pgd_reaches_the_optimum_of_a_linear_model_and_never_more(norm: Norm, seed: int) -> None:
    radii = MODEL.radii(IMAGES, norm)
    for rank in (1, 20, 63):
        eps = between(radii, rank)
        found = broken(PGD(), ThreatModel(norm, eps), seed=seed)
        assert found[radii < 0.98 * float(eps)].all()
        assert not found[radii > eps].any()


@each_norm
@each_attack
def test_perturbations_keep_to_the_ball_and_the_box(attack: Attack, norm: Norm) -> None:
    images = torch.rand((20, 1, 6, 6), generator=torch.Generator().manual_seed(0)).round(decimals=1)
    adversarial = attack.perturb(MODEL, images, MODEL(images).argmax(1), ThreatModel(norm, Fraction(1, 5)), seed=0)
    order = {Norm.LINF: torch.inf, Norm.L2: 2}[norm]
    sizes = torch.linalg.vector_norm((adversarial.double() - images.double()).flatten(1), ord=order, dim=1)
    assert 0.1 < sizes.max() <= 0.2 + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1


@each_attack
def test_the_seed_decides_the_result_and_the_global_generator_is_left_alone(attack: Attack) -> None:
    threat_model = ThreatModel(Norm.LINF, Fraction(1, 50))
    state = torch.random.get_rng_state()
    first = attack.perturb(MODEL, IMAGES, LABELS, threat_model, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(first, attack.perturb(MODEL, IMAGES, LABELS, threat_model, seed=3))
    assert torch.is_grad_enabled()


def test_pgd_starts_elsewhere_for_another_seed() -> None:
    threat_model = ThreatModel(Norm.LINF, Fraction(1, 50))
    one, other = (PGD(steps=1).perturb(MODEL, IMAGES, LABELS, threat_model, seed=seed) for seed in (0, 1))
    assert (one != other).flatten(1).any(1).all()


@each_attack
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no-grad"])
def test_gradients_are_found_in_either_grad_mode(attack: Attack, *, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        adversarial = attack.perturb(MODEL, IMAGES, LABELS, ThreatModel(Norm.LINF, Fraction(1, 10)), seed=0)
        assert torch.is_grad_enabled() is grad
    assert not adversarial.requires_grad
    assert (MODEL(adversarial).argmax(1) != LABELS).all()


@each_attack
def test_a_single_image_is_attacked_like_any_other(attack: Attack) -> None:
    alone = attack.perturb(MODEL, IMAGES[:1], LABELS[:1], ThreatModel(Norm.LINF, Fraction(1, 10)), seed=0)
    assert alone.shape == IMAGES[:1].shape
    assert MODEL(alone).argmax(1) != LABELS[:1]


@each_attack
def test_the_memory_format_of_the_images_makes_no_difference(attack: Attack) -> None:
    model = linear_model((3, 6, 6))
    images = as_floats(grey_levels(8, (3, 6, 6)))
    labels, threat_model = model(images).argmax(1), ThreatModel(Norm.L2, Fraction(1, 10))
    expected = attack.perturb(model, images, labels, threat_model, seed=0)
    found = attack.perturb(model, images.to(memory_format=torch.channels_last), labels, threat_model, seed=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("attack", "passes"),
    [(FGSM(), Passes(1, 1)), (PGD(steps=4), Passes(4, 4)), (PGD(steps=4, restarts=3), Passes(14, 12))],
    ids=["fgsm", "pgd", "pgd-restarts"],
)
def test_an_example_that_survives_costs_exactly_the_promised_passes(attack: Attack, passes: Passes) -> None:
    forwards: list[int] = []
    backwards: list[int] = []

    def count(images: Tensor) -> Tensor:
        forwards.append(len(images))
        if images.requires_grad:
            images.register_hook(lambda gradient: backwards.append(len(gradient)))
        return images

    threat_model = ThreatModel(Norm.LINF, Fraction(MODEL.radii(IMAGES, Norm.LINF).min() / 2))
    assert not broken(attack, threat_model, model=Wrapped(MODEL, before=count).eval()).any()
    # The last forward is that of `broken` itself.
    assert (forwards, backwards) == ([64] * (passes.forwards + 1), [64] * passes.backwards)
    assert attack.passes(threat_model, num_classes=4) == passes


def test_restarts_leave_out_the_examples_that_are_broken() -> None:
    radii = MODEL.radii(IMAGES, Norm.LINF)
    eps = between(radii, 40)
    sizes: list[int] = []

    def note(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images

    model = Wrapped(MODEL, before=note).eval()
    PGD(steps=20, restarts=2).perturb(model, IMAGES, LABELS, ThreatModel(Norm.LINF, eps), seed=0)
    assert sizes == [64] * 21 + [24] * 20


def test_more_restarts_never_break_fewer() -> None:
    eps = between(MODEL.radii(IMAGES, Norm.L2), 32)
    few, many = (broken(PGD(steps=3, restarts=n), ThreatModel(Norm.L2, eps)) for n in (1, 6))
    assert (many >= few).all()
    assert many.sum() > few.sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "pgd steps 0 is not at least 1"),
        ({"restarts": -1}, "pgd restarts -1 is not at least 1"),
        ({"relative_step_size": 0.0}, r"pgd relative step size 0.0 is not in \(0, 2\]"),
        ({"relative_step_size": 2.1}, r"pgd relative step size 2.1 is not in \(0, 2\]"),
        ({"relative_step_size": float("nan")}, r"pgd relative step size nan is not in \(0, 2\]"),
    ],
    ids=["no-steps", "negative-restarts", "no-step", "over-the-ball", "nan"],
)
def test_settings_of_pgd_that_make_no_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        PGD(**settings)  # type: ignore[arg-type] # counts and sizes in one table


def test_the_record_gets_every_setting_of_pgd() -> None:
    attack = PGD(steps=7, relative_step_size=0.25, restarts=3)
    parameters = attack.parameters(ThreatModel(Norm.LINF, Fraction(1, 10)), num_classes=10)
    assert parameters == {
        "loss": "cross-entropy",
        "random_start": "true",
        "relative_step_size": "0.25",
        "restarts": "3",
        "steps": "7",
    }


def test_fgsm_says_that_it_is_no_evidence_of_robustness() -> None:
    assert "only bounds robust accuracy from above" in FGSM().doubts({"fgsm": 0}, total=10)[0]


WITHOUT_GIT = """
import os, torch
from fractions import Fraction
from mixbench.attacks import FGSM
from mixbench.threat_model import Norm, ThreatModel
model, images = torch.nn.Flatten(), torch.rand(2, 1, 2, 2)
FGSM().perturb(model, images, torch.tensor([0, 1]), ThreatModel(Norm.LINF, Fraction(1, 2)), seed=0)
assert "GIT_PYTHON_REFRESH" not in os.environ
print("attacked")
"""


def test_foolbox_is_imported_where_there_is_no_git(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:`torch.jit:DeprecationWarning", "-c", WITHOUT_GIT],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (result.returncode, result.stdout) == (0, "attacked\n"), result.stderr
