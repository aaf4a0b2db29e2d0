from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbench.errors import AttackViolationError, InvalidInputError
from mixbench.evaluation.verification import check_within, judge, perturbation_norms
from mixbench.threat_model import Norm, ThreatModel
from tests.models_for_tests import as_floats, grey_levels

IMAGES = as_floats(grey_levels(4, (1, 3, 3)))
ORDERS = {Norm.LINF: np.inf, Norm.L2: 2, Norm.L1: 1}
EPS = Fraction(1, 10)


def pushed(size: float, norm: Norm) -> Tensor:
    """Return the images, the third moved to a distance of `size`."""
    direction = np.linspace(1, 2, 9)
    step = direction / np.linalg.norm(direction, ORDERS[norm]) * size
    moved = IMAGES.clone()
    moved[2] = (moved[2].double() + torch.from_numpy(step).view(1, 3, 3)).float()
    return moved


def test_verdicts_agree_with_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5))
    images = torch.rand((50, 1, 3, 3), generator=generator)
    labels = torch.randint(0, 5, (50,), generator=generator)
    verdicts = judge(model, images, labels, micro_batch=50)
    logits = model(images).detach().numpy()
    true = logits[np.arange(50), labels]
    others = np.array([np.delete(row, label).max() for row, label in zip(logits, labels, strict=True)])
    np.testing.assert_array_equal(verdicts.predictions, logits.argmax(1))
    np.testing.assert_array_equal(verdicts.margins, true - others)
    np.testing.assert_array_equal(verdicts.broken, true - others < 0)
    assert not verdicts.margins.requires_grad


@pytest.mark.parametrize("micro_batch", [1, 7, 50, 1000])
def test_a_judge_never_passes_more_than_a_micro_batch_and_each_image_once(micro_batch: int) -> None:
    sizes: list[int] = []

    class Noting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return images.flatten(1)

    judge(Noting(), torch.rand(50, 1, 2, 2), torch.zeros(50, dtype=torch.int64), micro_batch=micro_batch)
    assert sum(sizes) == 50
    assert max(sizes) == min(micro_batch, 50)


@pytest.mark.parametrize("norm", list(Norm))
def test_norms_agree_with_numpy_in_float64(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(0)
    images, adversarial = (torch.rand((6, 3, 4, 4), generator=generator) for _ in range(2))
    found = perturbation_norms(adversarial, images, norm)
    difference = adversarial.numpy().astype(np.float64) - images.numpy().astype(np.float64)
    expected = np.linalg.norm(difference.reshape(6, -1), ORDERS[norm], axis=1)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["clean", "inside", "on-the-ball"])
def test_images_inside_the_ball_pass_with_their_norms(norm: Norm, share: float) -> None:
    size = share * float(EPS)
    norms = check_within(pushed(size, norm), IMAGES, ThreatModel(norm, EPS), attack="push")
    np.testing.assert_allclose(norms, [0, 0, size, 0], atol=1e-7)


@pytest.mark.parametrize("norm", list(Norm))
def test_rounding_passes_and_what_is_over_it_is_a_violation(norm: Norm) -> None:
    threat_model = ThreatModel(norm, EPS)
    slack = threat_model.tolerance()
    check_within(pushed(float(EPS) + 0.5 * slack, norm), IMAGES, threat_model, attack="push")
    with pytest.raises(AttackViolationError, match=rf"push returned a perturbation of {norm.value} norm 0\.1000\d+"):
        check_within(pushed(float(EPS) + 2 * slack, norm), IMAGES, threat_model, attack="push")


@pytest.mark.parametrize("norm", list(Norm))
def test_a_violation_names_norm_and_eps(norm: Norm) -> None:
    with pytest.raises(
        AttackViolationError, match=rf"{norm.value} norm 0\.2\d*, above eps 1/10 = 0\.1 by more"
    ) as caught:
        check_within(pushed(0.2, norm), IMAGES, ThreatModel(norm, EPS), attack="push")
    assert caught.value.exit_code == 3


def with_value(value: float) -> Tensor:
    changed = IMAGES.clone()
    changed[1, 0, 0, 0] = value
    changed[3, 0, 1, 1] = value
    return changed


@pytest.mark.parametrize(
    ("adversarial", "message"),
    [
        (IMAGES[:3], r"push returned torch.float32 images of shape \(3, 1, 3, 3\), expected .* \(4, 1, 3, 3\)"),
        (IMAGES.double(), r"push returned torch.float64 images .*, expected torch.float32"),
        (IMAGES.half(), r"push returned torch.float16 images .*, expected torch.float32"),
        (with_value(float("nan")), "push returned 2 images with values that are not finite"),
        (with_value(float("inf")), "push returned 2 images with values that are not finite"),
        (with_value(-0.00001), r"push returned pixels from -9.99999975e-06 to 0.603921592, outside \[0, 1\]"),
        (with_value(1.00001), r"push returned pixels from 0.392156869 to 1.00001001, outside \[0, 1\]"),
    ],
    ids=["shape", "double", "half", "nan", "infinite", "below-0", "above-1"],
)
def test_what_is_no_image_is_a_violation(adversarial: Tensor, message: str) -> None:
    with pytest.raises(AttackViolationError, match=message):
        check_within(adversarial, IMAGES, ThreatModel(Norm.LINF, Fraction(1)), attack="push")


@pytest.mark.parametrize("value", [-5e-7, 1 + 5e-7], ids=["below-0", "above-1"])
def test_the_box_may_be_left_by_rounding(value: float) -> None:
    check_within(with_value(value), IMAGES, ThreatModel(Norm.LINF, Fraction(1)), attack="push")


@pytest.mark.parametrize("logit", [float("nan"), float("inf")], ids=["NaN", "infinite"])
def test_an_answer_that_is_no_number_is_neither_right_nor_wrong(logit: float) -> None:
    class Undefined(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = torch.zeros(len(images), 4)
            logits[1, 2] = logit
            return logits

    with pytest.raises(InvalidInputError, match="NaN or infinite logits for 1 images"):
        judge(Undefined(), torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64), micro_batch=3)
