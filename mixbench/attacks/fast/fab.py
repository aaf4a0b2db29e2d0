"""Targeted FAB (arXiv 1907.02044): the nearest point of a boundary, approached by linearising it again and again."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mixbench.attacks.fast.projection import project_l2, project_linf
from mixbench.attacks.fast.search import Images, Network, PerSlot, Slots, margins, pulled_back
from mixbench.attacks.protocol import Passes
from mixbench.errors import InvalidInputError
from mixbench.threat_model import Norm

_OVERSHOOT = 1.05
_RETREAT = 0.9
_MOST_BIAS = 0.1
_LEAST_DISTANCE = 1e-8


@dataclass(eq=False)
class FabSlots(Slots):
    """What FAB remembers of an example.

    Attributes:
        target: The class aimed at.
        iterate: The image at which the boundary is linearised next.
    """

    target: Int64[Tensor, " slot"]
    iterate: Images


@dataclass(frozen=True)
class Fab:
    """FAB as the standard version of AutoAttack runs it: one run from the clean image for each target.

    It looks for the nearest adversarial image whatever the radius; those outside the threat model do not count.

    Attributes:
        norm: Linf or L2.
        iterations: Steps towards one target.
        targets: How many classes are aimed at, at most: those likeliest after the true one, likeliest first.
    """

    norm: Norm
    iterations: int = 100
    targets: int = 9

    def __post_init__(self) -> None:
        if self.norm not in {Norm.LINF, Norm.L2}:
            raise InvalidInputError(
                f"the fast engine has no {self.norm.value} version of FAB: use --norm Linf or --norm L2"
            )

    @property
    def name(self) -> str:
        """What `broken_by` calls it."""
        return "fab-t"

    @property
    def passes(self) -> Passes:
        """The passes through the network of one step: the boundary here, and the class of where it leads."""
        return Passes(2, 1)

    def budget(self, num_classes: int) -> int:
        """Return the steps of all runs."""
        return self.runs(num_classes) * self.iterations

    def runs(self, num_classes: int) -> int:
        """Return how many classes are aimed at."""
        return min(self.targets, num_classes - 1)

    def start(
        self,
        images: Images,
        labels: Int64[Tensor, " slot"],
        keys: Int64[Tensor, " slot"],
        clean_logits: Float[Tensor, "slot logit"],
        eps: PerSlot,
        *,
        run: Int64[Tensor, " slot"],
    ) -> FabSlots:
        """Return the state of newly admitted examples; nothing is random in it."""
        likeliest = clean_logits.scatter(1, labels[:, None], torch.inf).argsort(1, descending=True)
        return FabSlots(
            images=images,
            labels=labels,
            keys=keys,
            clean_logits=clean_logits,
            eps=eps,
            steps=torch.zeros_like(labels),
            candidate=images,
            margin=torch.full_like(eps, torch.inf),
            target=likeliest.gather(1, 1 + run[:, None]).squeeze(1),
            iterate=images,
        )

    @torch.no_grad()
    def step(self, network: Network, slots: FabSlots) -> None:
        """Move to the boundary, as it looks from the iterate, and back a little where that crosses it."""
        moved = self._move(network, slots)
        margin = margins(network(moved), slots.labels)
        outside = self._sizes((moved - slots.images).flatten(1)) > slots.eps
        slots.consider(moved, margin.masked_fill(outside, torch.inf))
        # A tie counts as crossed: at a gap of 0 the iterate would never move again.
        share = torch.ones_like(margin).masked_fill_(margin <= 0, _RETREAT)
        torch.lerp(slots.images, moved, _each(share), out=slots.iterate)
        slots.steps += 1

    def _move(self, network: Network, slots: FabSlots) -> Images:
        """Return the iterates moved past the linearised boundary, drawn a little to where the clean image meets it."""
        target, label = slots.target[:, None], slots.labels[:, None]
        _, gaps, gradient = pulled_back(network, slots.iterate, lambda logits: _lead(logits, target, label))
        # Half precision may overflow, which must not spoil the iterate for good.
        gaps, normals = gaps.nan_to_num(0, 0, 0), gradient.flatten(1).nan_to_num(0, 0, 0)
        points = torch.stack([slots.iterate, slots.images]).flatten(2)
        clean_gaps = gaps + (normals * (points[1] - points[0])).sum(1)
        project = project_linf if self.norm is Norm.LINF else project_l2
        perturbations = project(points, normals, torch.stack([gaps, clean_gaps]))
        near, far = self._sizes(perturbations).clamp_min_(_LEAST_DISTANCE)
        bias = (near / (near + far)).clamp_max_(_MOST_BIAS)
        ends = torch.add(points, perturbations, alpha=_OVERSHOOT)
        return torch.lerp(ends[0], ends[1], bias[:, None]).clamp_(0, 1).view_as(gradient)

    def _sizes(self, perturbations: Float[Tensor, "*row coordinate"]) -> Float[Tensor, "*row"]:
        if self.norm is Norm.LINF:
            return perturbations.abs().amax(-1)
        return torch.linalg.vector_norm(perturbations, dim=-1)


def _lead(
    logits: Float[Tensor, "slot logit"], target: Int64[Tensor, "slot 1"], label: Int64[Tensor, "slot 1"]
) -> tuple[PerSlot, Float[Tensor, "slot logit"]]:
    """Return by how much the target leads the label, and the slopes of that."""
    slopes = torch.zeros_like(logits).scatter_(1, target, 1).scatter_(1, label, -1)
    return (logits.gather(1, target) - logits.gather(1, label)).squeeze(1), slopes


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]
