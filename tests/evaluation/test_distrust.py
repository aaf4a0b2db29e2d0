"""No attack can talk the harness into a broken example."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbench.errors import AttackViolationError
from mixbench.evaluation import evaluate, plan
from mixbench.store import decode_examples
from mixbench.threat_model import ThreatModel
from tests.evaluation.attacks_for_tests import HALF_AND_FULL, LEVELS, Does, Push, Staged, pushed_plan, returns
from tests.models_for_tests import first_pixels, labelled_by, loaded, one_pixel_model


def honest(images: Tensor, labels: Tensor) -> Tensor:
    del labels
    return images


def test_clean_images_are_never_adversarial(tmp_path: Path) -> None:
    (evaluation,) = evaluate(pushed_plan("1/10", stages=(returns(honest),)), workspace=tmp_path)
    assert evaluation.record.robust.correct == evaluation.record.clean.correct == 16


def over_the_box(images: Tensor, labels: Tensor) -> Tensor:
    del labels
    return images + 0.1


def black(images: Tensor, labels: Tensor) -> Tensor:
    del labels
    return torch.zeros_like(images)


def in_place(images: Tensor, labels: Tensor) -> Tensor:
    """Overwrite the input, so that a comparison with it would find no perturbation."""
    images[:, 0, 0, 0] = labels.float()
    return images


def mostly_right(images: Tensor, labels: Tensor) -> Tensor:
    del labels
    moved = images.clone()
    moved[-1] = 1 - moved[-1]
    return moved


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (black, r"returns returned a perturbation of Linf norm 1, above eps 1/10 = 0.1"),
        (over_the_box, r"returns returned pixels from 0\.1\d* to 1\.1\d*, outside"),
        (in_place, "returns returned a perturbation of Linf norm 1, above"),
        (mostly_right, "returns returned a perturbation of Linf norm"),
        (lambda images, _: images[1:], r"returns returned torch.float32 images of shape \(15, 1, 2, 2\)"),
        (lambda images, _: images.half(), "returns returned torch.float16 images"),
        (lambda images, _: images * torch.nan, "returns returned 16 images with values that are not finite"),
    ],
    ids=["black", "out-of-the-box", "input-overwritten", "one-of-many", "too-few", "half", "nan"],
)
def test_what_breaks_the_threat_model_ends_the_run(
    answer: Callable[[Tensor, Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(AttackViolationError, match=message) as caught:
        evaluate(pushed_plan("1/10", stages=(returns(answer),)), workspace=tmp_path)
    assert caught.value.exit_code == 3


def test_an_attack_that_changes_the_labels_is_judged_by_the_true_ones(tmp_path: Path) -> None:
    def relabel(images: Tensor, labels: Tensor) -> Tensor:
        labels.copy_(1 - labels)
        return images

    (evaluation,) = evaluate(pushed_plan("1/10", stages=(returns(relabel),)), workspace=tmp_path)
    assert evaluation.record.robust.correct == 16


def test_what_fools_the_model_in_half_precision_alone_is_not_broken(tmp_path: Path) -> None:
    """A pixel of 1/2 + 1e-4 is above 1/2 in float32; half precision rounds it to 1/2 and takes the other class."""

    class HalfModel(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            pixel = images[:, 0, 0, 0].half()
            return torch.stack([(pixel > 0.5).float(), (pixel <= 0.5).float()], dim=1)

    near = 0.5 + 1e-4

    def fooling_half(images: Tensor, labels: Tensor) -> Tensor:
        moved = images.clone()
        moved[:, 0, 0, 0] = near
        assert (HalfModel()(moved).argmax(1) != labels).all()
        return moved

    levels = (128, 140, 150)
    (evaluation,) = evaluate(pushed_plan("1/10", stages=(returns(fooling_half),), levels=levels), workspace=tmp_path)
    assert evaluation.record.robust.correct == 3


def test_only_the_part_of_an_answer_that_is_adversarial_counts(tmp_path: Path) -> None:
    """A stage that moves each image by eps, adversarial or not, is believed where the model errs."""
    (evaluation,) = evaluate(pushed_plan("1/10", stages=(Push(),)), workspace=tmp_path)
    rows = decode_examples(evaluation.examples, source="test")
    with torch.no_grad():
        errs = one_pixel_model()(torch.from_numpy(evaluation.adversarials)).argmax(1).numpy()
    assert (errs != rows["label"][rows["broken"]].to_numpy()).all()
    assert 0 < rows["broken"].sum() < len(LEVELS)


def test_an_answer_that_still_carries_gradients_is_taken_like_any_other(tmp_path: Path) -> None:
    def with_graph(images: Tensor, labels: Tensor) -> Tensor:
        step = torch.full((1,), 0.05, requires_grad=True)
        direction = torch.where(labels == 0, -1.0, 1.0)[:, None, None, None]
        return (images + direction * step).clamp(0, 1)

    (evaluation,) = evaluate(pushed_plan("1/10", stages=(returns(with_graph),)), workspace=tmp_path)
    assert evaluation.record.broken_by["returns"] == 8


def test_the_judge_is_the_plain_model_and_not_what_the_attack_saw(tmp_path: Path) -> None:
    """A hook that an attack leaves on the wrapper it was given dies with the wrapper."""

    def hook(model: nn.Module, images: Tensor, labels: Tensor, threat_model: ThreatModel) -> Tensor:
        del labels, threat_model
        model.register_forward_hook(lambda _module, _inputs, logits: -logits)
        return images

    run_plan = pushed_plan("1/10", stages=(Does(hook, "hooking"), *HALF_AND_FULL))
    (evaluation,) = evaluate(run_plan, workspace=tmp_path)
    assert evaluation.record.broken_by["hooking"] == 0
    assert evaluation.record.broken_by["full"] > 0


def test_images_are_given_to_the_model_as_pixels_from_0_to_1(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Noting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.detach())
            return one_pixel_model()(images)

    examples = labelled_by(one_pixel_model(), first_pixels((0, 128, 255)))
    threat_models = [ThreatModel.parse("Linf 1/10")]
    evaluate(plan(loaded(Noting().eval()), examples, Staged((Push(),)), threat_models, seed=0), workspace=tmp_path)
    assert all(images.dtype == torch.float32 for images in seen)
    searched, judged = (images[:, 0, 0, 0].numpy() for images in seen[-2:])
    np.testing.assert_array_equal(searched, np.array([0, 128, 255], np.float32) / 255)
    np.testing.assert_allclose(judged, [0.1, 128 / 255 - 0.1, 0.9], rtol=1e-6)
