"""Auto-PGD (arXiv 2003.01690) on the cross-entropy and, target by target, on the DLR loss."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mixbench.attacks.fast.losses import cross_entropy, targeted_dlr
from mixbench.attacks.fast.search import (
    Images,
    Network,
    PerSlot,
    Slots,
    assign,
    margins,
    nowhere,
    pulled_back,
    unit_slopes,
)
from mixbench.attacks.fast.streams import normal, uniform
from mixbench.attacks.protocol import Passes
from mixbench.errors import InvalidInputError
from mixbench.threat_model import Norm

_MOMENTUM = 0.25
_RISES = 0.75
_FIRST_WINDOW, _NARROWING, _LEAST_WINDOW = 0.22, 0.03, 0.06
_TINY = 1e-12


@dataclass(eq=False)
class ApgdSlots(Slots):
    """What a run of Auto-PGD remembers; "since the check" means since the last one of the step size.

    Attributes:
        target: The class aimed at.
        windows: For each iteration, how many iterations the check after it looks back on; 0 where there is none.
        iterate: The image to be asked about next.
        previous: The iterate before it, from which the momentum is taken.
        best: The iterate of the largest loss.
        best_gradient: The gradient there.
        best_loss: The loss there.
        checked_loss: `best_loss` at the check.
        last_loss: The loss one iteration ago.
        rises: How often the loss has grown since the check.
        halved: Whether the check halved the step size.
        step_size: In the norm of the threat model.
        flat: Where the gradient of the DLR loss was zero at the start. That of the cross-entropy may be: it saturates.
    """

    target: Int64[Tensor, " slot"]
    windows: Int64[Tensor, "slot iteration"]
    iterate: Images
    previous: Images
    best: Images
    best_gradient: Images
    best_loss: PerSlot
    checked_loss: PerSlot
    last_loss: PerSlot
    rises: PerSlot
    halved: Bool[Tensor, " slot"]
    step_size: PerSlot
    flat: Bool[Tensor, " slot"]


@dataclass(frozen=True)
class Apgd:
    """Auto-PGD as the standard version of AutoAttack runs it: one run from a random start, or one for each target.

    Attributes:
        norm: Linf or L2.
        loss: "ce" is the cross-entropy; "dlr-targeted" the targeted difference-of-logits ratio, for the classes
            that are likeliest after the true one, likeliest first.
        iterations: Gradient steps of one run.
        targets: How many classes are aimed at, at most.
    """

    norm: Norm
    loss: Literal["ce", "dlr-targeted"]
    iterations: int = 100
    targets: int = 9

    def __post_init__(self) -> None:
        if self.norm not in {Norm.LINF, Norm.L2}:
            raise InvalidInputError(
                f"the fast engine has no {self.norm.value} version of Auto-PGD: use --norm Linf or --norm L2"
            )

    @property
    def name(self) -> str:
        """What `broken_by` calls it."""
        return {"ce": "apgd-ce", "dlr-targeted": "apgd-t"}[self.loss]

    @property
    def passes(self) -> Passes:
        """The passes through the network of one step."""
        return Passes(1, 1)

    def budget(self, num_classes: int) -> int:
        """Return the steps of all runs: each has one for its start."""
        return self.runs(num_classes) * (self.iterations + 1)

    def runs(self, num_classes: int) -> int:
        """Return how many classes are aimed at, or 1 where the loss has no target."""
        return 1 if self.loss == "ce" else min(self.targets, num_classes - 1)

    def start(
        self,
        images: Images,
        labels: Int64[Tensor, " slot"],
        keys: Int64[Tensor, " slot"],
        clean_logits: Float[Tensor, "slot logit"],
        eps: PerSlot,
        *,
        run: Int64[Tensor, " slot"],
    ) -> ApgdSlots:
        """Return the state of newly admitted examples, whose first iterate is drawn at random."""
        iterate = self._random_starts(images, keys, eps, run)
        zero, infinite = torch.zeros_like(eps), torch.full_like(eps, torch.inf)
        return ApgdSlots(
            images=images,
            labels=labels,
            keys=keys,
            clean_logits=clean_logits,
            eps=eps,
            steps=torch.zeros_like(labels),
            candidate=images,
            margin=infinite,
            target=_likeliest(clean_logits, labels).gather(1, run[:, None]).squeeze(1),
            windows=torch.tensor(_windows(self.iterations), device=images.device).expand(len(images), -1),
            iterate=iterate,
            previous=iterate,
            best=iterate,
            best_gradient=torch.zeros_like(images),
            best_loss=-infinite,
            checked_loss=zero,
            last_loss=infinite,
            rises=zero,
            # There is nothing yet that the first check could find unimproved.
            halved=torch.ones_like(labels, dtype=torch.bool),
            step_size=2 * eps,
            flat=torch.zeros_like(labels, dtype=torch.bool),
        )

    @torch.no_grad()
    def step(self, network: Network, slots: ApgdSlots) -> None:
        """Ask about the iterate, judge the step size where a check is due, and move on."""
        logits, losses, gradient = pulled_back(network, slots.iterate, lambda logits: self._loss(logits, slots))
        # Half precision may overflow, which must not spoil the run for good.
        gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        slots.consider(slots.iterate, margins(logits, slots.labels))
        if self.loss != "ce":
            slots.flat |= (slots.steps == 0) & (gradient.flatten(1).abs().amax(1) == 0)
        improved = (losses > slots.best_loss) & (losses < torch.inf)
        for own, found in ((slots.best, slots.iterate), (slots.best_gradient, gradient), (slots.best_loss, losses)):
            assign(own, improved, found)
        halved = _check(slots, losses)
        assign(slots.iterate, halved, slots.best)
        assign(gradient, halved, slots.best_gradient)
        move = _linf_move if self.norm is Norm.LINF else _l2_move
        following = move(slots, gradient)
        slots.previous.copy_(slots.iterate)
        slots.iterate.copy_(following)
        slots.steps += 1

    def _random_starts(
        self, images: Images, keys: Int64[Tensor, " slot"], eps: PerSlot, run: Int64[Tensor, " slot"]
    ) -> Images:
        """Return images on the surface of the ball, cut to the box."""
        if self.norm is Norm.LINF:
            noise = 2 * uniform(keys, run, images[0].numel()) - 1
            noise /= noise.abs().amax(1, keepdim=True)
        else:
            noise = normal(keys, run, images[0].numel())
            noise /= torch.linalg.vector_norm(noise, dim=1, keepdim=True)
        return (images + _each(eps) * noise.to(images.dtype).view_as(images)).clamp_(0, 1)

    def _loss(
        self, logits: Float[Tensor, "slot logit"], slots: ApgdSlots
    ) -> tuple[PerSlot, Float[Tensor, "slot logit"]]:
        """Return the losses and multiples of their slopes, so large that half precision does not lose them."""
        if self.loss == "ce":
            losses, slopes = cross_entropy(logits, slots.labels)
        else:
            losses, slopes = targeted_dlr(logits, slots.labels, slots.target)
        return losses, unit_slopes(slopes)


def _windows(iterations: int) -> list[int]:
    """Return, for each iteration from 0, the length of the window that a check closes there, or 0."""
    windows = [0] * (iterations + 1)
    narrowing, least = (max(int(share * iterations), 1) for share in (_NARROWING, _LEAST_WINDOW))
    width = max(int(_FIRST_WINDOW * iterations), 1)
    end = width
    while end <= iterations:
        windows[end] = width
        width = max(width - narrowing, least)
        end += width
    return windows


def _likeliest(logits: Float[Tensor, "slot logit"], labels: Int64[Tensor, " slot"]) -> Int64[Tensor, "slot class"]:
    """Return the classes other than `labels`, likeliest first."""
    return logits.scatter(1, labels[:, None], torch.inf).argsort(1, descending=True)[:, 1:]


def _check(slots: ApgdSlots, losses: PerSlot) -> Bool[Tensor, " slot"]:
    """Halve step sizes under which the loss stopped growing, where a check is due; return where that was."""
    slots.rises += losses > slots.last_loss
    # The reference compares the first step's loss with 0, not with that of the start.
    slots.last_loss.copy_(losses.masked_fill(slots.steps == 0, 0))
    last = slots.windows.shape[1] - 1
    window = slots.windows.gather(1, slots.steps.clamp(max=last)[:, None]).squeeze(1)
    due = window > 0
    if nowhere(due):
        return due
    stuck = ~slots.halved & (slots.checked_loss >= slots.best_loss)
    halved = due & ((slots.rises <= _RISES * window) | stuck)
    assign(slots.halved, due, halved)
    assign(slots.checked_loss, due, slots.best_loss)
    assign(slots.rises, due, 0.0)
    assign(slots.step_size, halved, slots.step_size / 2)
    return halved


def _linf_move(slots: ApgdSlots, gradient: Images) -> Images:
    low, high = ((slots.images + sign * _each(slots.eps)).clamp_(0, 1) for sign in (-1, 1))
    ahead = torch.clamp(slots.iterate + _each(slots.step_size) * gradient.sign(), low, high)
    return torch.clamp(_with_momentum(slots, ahead), low, high)


def _l2_move(slots: ApgdSlots, gradient: Images) -> Images:
    ahead = slots.iterate + _each(slots.step_size / (_sizes(gradient) + _TINY)) * gradient
    ahead = _in_ball(ahead, slots)
    return _in_ball(_with_momentum(slots, ahead), slots)


def _with_momentum(slots: ApgdSlots, ahead: Images) -> Images:
    # Before the first step the iterate is its own predecessor.
    share = torch.full_like(slots.eps, 1 - _MOMENTUM).masked_fill_(slots.steps == 0, 1)
    moved = slots.iterate + (ahead - slots.iterate) * _each(share)
    return moved.add_(slots.iterate - slots.previous, alpha=_MOMENTUM)


def _in_ball(images: Images, slots: ApgdSlots) -> Images:
    perturbation = images - slots.images
    sizes = _sizes(perturbation)
    scale = torch.minimum(sizes, slots.eps) / (sizes + _TINY)
    return (slots.images + perturbation * _each(scale)).clamp_(0, 1)


def _sizes(perturbation: Images) -> PerSlot:
    return torch.linalg.vector_norm(perturbation.flatten(1), dim=1)


def _each(values: PerSlot) -> Float[Tensor, "slot 1 1 1"]:
    return values[:, None, None, None]
