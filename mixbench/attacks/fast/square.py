"""The Square attack (arXiv 1912.00049): random windows, kept where they lower the margin; it sees no gradient."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mixbench.attacks.fast.search import Images, Network, PerSlot, Slots, margins
from mixbench.attacks.fast.square_l2 import SquareL2Slots, l2_image, plan_l2, tiled
from mixbench.attacks.fast.square_linf import linf_image, plan_linf, striped
from mixbench.attacks.fast.square_windows import SquareSlots
from mixbench.attacks.protocol import Passes
from mixbench.errors import InvalidInputError
from mixbench.threat_model import Norm


@dataclass(frozen=True)
class Square:
    """The Square attack as the standard version of AutoAttack runs it, on the margin.

    Where the reference draws one window for a whole batch, here each example has windows of its own.

    Attributes:
        norm: Linf or L2.
        queries: How many windows are tried.
    """

    norm: Norm
    queries: int = 5000

    def __post_init__(self) -> None:
        if self.norm not in {Norm.LINF, Norm.L2}:
            raise InvalidInputError(
                f"the fast engine has no {self.norm.value} version of Square: use --norm Linf or --norm L2"
            )

    @property
    def name(self) -> str:
        """What `broken_by` calls it."""
        return "square"

    @property
    def passes(self) -> Passes:
        """The passes through the network of one step."""
        return Passes(1, 0)

    def budget(self, num_classes: int) -> int:
        """Return the steps: one for the start and one a query."""
        del num_classes
        return 1 + self.queries

    def runs(self, num_classes: int) -> int:
        """Return 1: each query builds on the one before."""
        del num_classes
        return 1

    def start(
        self,
        images: Images,
        labels: Int64[Tensor, " slot"],
        keys: Int64[Tensor, " slot"],
        clean_logits: Float[Tensor, "slot logit"],
        eps: PerSlot,
        *,
        run: Int64[Tensor, " slot"],
    ) -> SquareSlots:
        """Return the state of newly admitted examples; their candidate is the start, about which nobody asked yet."""
        del run
        linf = self.norm is Norm.LINF
        slots = Slots(
            images=images,
            labels=labels,
            keys=keys,
            clean_logits=clean_logits,
            eps=eps,
            steps=torch.zeros_like(labels),
            candidate=striped(images, keys, eps) if linf else tiled(images, keys, eps),
            margin=torch.full_like(eps, torch.inf),
        )
        if linf:
            return SquareSlots(*slots.tensors(), plan=plan_linf(keys, images, self.queries))
        plan, shapes = plan_l2(keys, images, self.queries)
        return SquareL2Slots(*slots.tensors(), plan=plan, shapes=shapes)

    @torch.no_grad()
    def step(self, network: Network, slots: SquareSlots) -> None:
        """Ask about the candidate with a window changed."""
        images = l2_image(slots) if isinstance(slots, SquareL2Slots) else linf_image(slots)
        slots.consider(images, margins(network(images), slots.labels))
        slots.steps += 1
