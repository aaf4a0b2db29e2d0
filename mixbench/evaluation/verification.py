"""Distrust: every image an attack returns is checked before it counts."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mixbench.errors import AttackViolationError, InvalidInputError
from mixbench.threat_model import Norm, ThreatModel

_BOX_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What the plain float32 model says of a batch of images.

    Attributes:
        predictions: Class of the largest logit.
        margins: The true class's logit minus the largest other one; misclassified where it is below 0.
        broken: Whether the prediction is not the label.
    """

    predictions: Int64[Tensor, " batch"]
    margins: Float[Tensor, " batch"]
    broken: Bool[Tensor, " batch"]


def judge(
    model: nn.Module,
    images: Float[Tensor, "batch channel height width"],
    labels: Int64[Tensor, " batch"],
    *,
    micro_batch: int,
) -> Verdicts:
    """Return the verdicts of `model` on `images`, one forward an image.

    Raises InvalidInputError if a logit is NaN or infinite: such an answer is neither right nor wrong.
    """
    with torch.no_grad():
        logits = torch.cat([model(cut) for cut in images.split(micro_batch)])
    if not bool(torch.isfinite(logits).all()):
        count = int((~torch.isfinite(logits)).any(1).sum())
        raise InvalidInputError(
            f"the model returned NaN or infinite logits for {count} images in [0, 1]: mend its weights or its forward"
        )
    predictions = logits.argmax(1)
    true = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return Verdicts(predictions=predictions, margins=true - others, broken=predictions != labels)


def perturbation_norms(
    adversarial: Float[Tensor, "batch channel height width"],
    images: Float[Tensor, "batch channel height width"],
    norm: Norm,
) -> Float[Tensor, " batch"]:
    """Return the size of each perturbation in `norm`, in float64."""
    perturbation = (adversarial.double() - images.double()).flatten(1)
    order = {Norm.LINF: torch.inf, Norm.L2: 2, Norm.L1: 1}[norm]
    return torch.linalg.vector_norm(perturbation, ord=order, dim=1)


def check_within(
    adversarial: Tensor,
    images: Float[Tensor, "batch channel height width"],
    threat_model: ThreatModel,
    *,
    attack: str,
) -> Float[Tensor, " batch"]:
    """Return the norm of each perturbation, in float64, after checking it against the threat model.

    Raises AttackViolationError with the numbers if an image has another shape or type, is not finite, lies outside
    [0, 1] by more than 1e-6, or is further than eps plus `threat_model.tolerance()` from its clean image.
    """
    if adversarial.shape != images.shape or adversarial.dtype != images.dtype:
        raise AttackViolationError(
            f"{attack} returned {adversarial.dtype} images of shape {tuple(adversarial.shape)}, expected"
            f" {images.dtype} of {tuple(images.shape)}"
        )
    if not bool(torch.isfinite(adversarial).all()):
        count = int((~torch.isfinite(adversarial)).flatten(1).any(1).sum())
        raise AttackViolationError(f"{attack} returned {count} images with values that are not finite")
    low, high = float(adversarial.min()), float(adversarial.max())
    if low < -_BOX_TOLERANCE or high > 1 + _BOX_TOLERANCE:
        raise AttackViolationError(f"{attack} returned pixels from {low:.9g} to {high:.9g}, outside [0, 1]")
    norms = perturbation_norms(adversarial, images, threat_model.norm)
    largest, limit = float(norms.max()), float(threat_model.eps) + threat_model.tolerance()
    if largest > limit:
        raise AttackViolationError(
            f"{attack} returned a perturbation of {threat_model.norm.value} norm {largest:.9g}, above eps"
            f" {threat_model.eps} = {float(threat_model.eps):.9g} by more than rounding"
        )
    return norms
