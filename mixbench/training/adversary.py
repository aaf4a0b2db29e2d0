"""The search for adversarial examples during training: PGD from a random start, Linf and L2."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from mixbench.threat_model import Norm

Images = Float[Tensor, "batch channel height width"]
Scalar = Float[Tensor, ""] | float
_TINY = 1e-12


def adversarial_batch(
    model: nn.Module,
    images: Images,
    labels: Int64[Tensor, " batch"],
    start: Images,
    *,
    norm: Norm,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
) -> Images:
    """Return the images moved by PGD (arXiv 1706.06083) within `eps`, the model being in eval mode meanwhile.

    `start` decides where in the ball the search begins, as `Draws` says. `eps` and `step_size` may be tensors on the
    device, so that a captured graph follows a warm-up.
    """
    linf = norm is Norm.LINF
    adversarial = _linf_start(images, start, eps) if linf else _l2_start(images, start, eps)
    with _input_gradients_alone(model):
        for _ in range(steps):
            gradient = _loss_gradient(model, adversarial, labels)
            adversarial = adversarial.detach()
            if linf:
                step = adversarial + step_size * gradient.sign()
                adversarial = torch.minimum(torch.maximum(step, images - eps), images + eps).clamp(0, 1)
            else:
                adversarial = _within_l2(images, adversarial + step_size * gradient / _length(gradient), eps)
    return adversarial


def _loss_gradient(model: nn.Module, adversarial: Images, labels: Int64[Tensor, " batch"]) -> Images:
    adversarial.requires_grad_()
    loss = functional.cross_entropy(model(adversarial), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, [adversarial])
    return gradient


def _linf_start(images: Images, uniform: Images, eps: Scalar) -> Images:
    return (images + eps * (2 * uniform - 1)).clamp(0, 1)


def _l2_start(images: Images, normal: Images, eps: Scalar) -> Images:
    """Return a start on the sphere, in a direction drawn evenly: in many dimensions a ball is mostly shell."""
    return (images + eps * normal / _length(normal)).clamp(0, 1)


def _within_l2(images: Images, moved: Images, eps: Scalar) -> Images:
    """Return `moved` brought back into the ball, then into the box: which only brings it closer."""
    perturbation = moved - images
    return (images + perturbation * (eps / _length(perturbation)).clamp(max=1)).clamp(0, 1)


def _length(perturbation: Images) -> Float[Tensor, "batch 1 1 1"]:
    return perturbation.flatten(1).norm(dim=1).clamp_min(_TINY)[:, None, None, None]


@contextmanager
def _input_gradients_alone(model: nn.Module) -> Generator[None]:
    """Put the model into eval mode and stop gradients to its parameters, which nobody reads."""
    was_training = model.training
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_()
        model.train(was_training)
