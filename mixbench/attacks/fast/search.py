"""What the fast engine asks of a search: a state of fixed shape, moved one step at a time, without the host waiting."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol, Self, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mixbench.attacks.protocol import Passes

Images = Float[Tensor, "slot channel height width"]
PerSlot = Float[Tensor, " slot"]
Network = Callable[[Images], Float[Tensor, "slot logit"]]
"""Maps images in [0, 1] to logits in float32, each image by itself; its own arithmetic may be half precision."""


@dataclass(eq=False)
class Slots:
    """The examples being attacked, a row each; a search adds the tensors of its own state.

    Everything is a tensor whose first axis is the slot, so that an example can be put into any slot at any time and
    taken out again without the others noticing.

    Attributes:
        images: The clean images.
        labels: Their classes.
        keys: What the random stream of each example is drawn from; it depends on the seed and the example alone.
        clean_logits: The float32 model's logits of the clean images.
        eps: Radius of the threat model.
        steps: Steps made since the example was admitted, that is of its run.
        candidate: The image of least margin seen so far among those within the threat model.
        margin: Its margin by the network: the true class's logit minus the largest other one; infinite before any.
    """

    images: Images
    labels: Int64[Tensor, " slot"]
    keys: Int64[Tensor, " slot"]
    clean_logits: Float[Tensor, "slot logit"]
    eps: PerSlot
    steps: Int64[Tensor, " slot"]
    candidate: Images
    margin: PerSlot

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors, in a fixed order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def copied(self) -> Self:
        """Return copies of all tensors, none of which shares memory with another."""
        return type(self)(*(tensor.clone(memory_format=torch.contiguous_format) for tensor in self.tensors()))

    def rows(self, index: Int64[Tensor, " row"]) -> Self:
        """Return copies of the rows of `index`, as slots of their own."""
        return type(self)(*(tensor[index] for tensor in self.tensors()))

    def put(self, index: Int64[Tensor, " row"], others: Self) -> None:
        """Overwrite the rows of `index`, in place."""
        for own, other in zip(self.tensors(), others.tensors(), strict=True):
            own[index] = other

    def consider(self, images: Images, margins: PerSlot) -> None:
        """Make each of `images`, all within the threat model, the candidate where its margin is the least so far.

        Where an image must not count, its margin is infinite; half precision may overflow to either side.
        """
        better = (margins < self.margin) & (margins > -torch.inf)
        assign(self.candidate, better, images)
        assign(self.margin, better, margins)


S = TypeVar("S", bound=Slots)


@runtime_checkable
class SeesGradients(Protocol):
    """Slots of a search that notices where the model hides its gradient.

    Attributes:
        flat: Where the gradient was zero in every pixel at the start of the run.
    """

    flat: Bool[Tensor, " slot"]


class Search(Protocol[S]):
    """A search for adversarial examples: a frozen, hashable dataclass of its hyper-parameters."""

    @property
    def name(self) -> str:
        """What `broken_by` calls it."""
        ...

    def budget(self, num_classes: int) -> int:
        """Return the steps after which an example counts as robust."""
        ...

    def runs(self, num_classes: int) -> int:
        """Return into how many runs of equal length the budget falls; each knows nothing of the others.

        So the runs of one example may take slots of their own, side by side.
        """
        ...

    @property
    def passes(self) -> Passes:
        """The passes through the network of one step."""
        ...

    def start(
        self,
        images: Images,
        labels: Int64[Tensor, " slot"],
        keys: Int64[Tensor, " slot"],
        clean_logits: Float[Tensor, "slot logit"],
        eps: PerSlot,
        *,
        run: Int64[Tensor, " slot"],
    ) -> S:
        """Return the state at the beginning of the given run of newly admitted examples, without asking the network.

        Its tensors may share memory: whoever steps it copies it first.
        """
        ...

    def step(self, network: Network, slots: S) -> None:
        """Move every slot by one step of its own, in place.

        Shapes never change, no tensor is replaced, nothing is read by the host and no global generator is used, so
        that a CUDA graph can replay it; rows do not see each other. Slots past their run may do anything finite.
        """
        ...


def assign(own: Tensor, where: Bool[Tensor, " slot"], values: Tensor | float) -> None:
    """Overwrite, in place, the slots of `own` in which `where` holds."""
    mask = where.view(-1, *[1] * (own.dim() - 1))
    if isinstance(values, Tensor):
        torch.where(mask, values, own, out=own)
    else:
        own.masked_fill_(mask, values)


def margins(logits: Float[Tensor, "slot logit"], labels: Int64[Tensor, " slot"]) -> PerSlot:
    """Return the true class's logit minus the largest other one: below 0 exactly where argmax is another class.

    Of equal logits argmax takes the first; where that costs the true class its place, the margin is barely below 0.
    """
    true = logits.gather(1, labels[:, None]).squeeze(1)
    largest, rival = logits.scatter(1, labels[:, None], -torch.inf).max(1)
    margin = true - largest
    lost = (margin == 0) & (rival < labels)
    return margin.masked_fill(lost, -torch.finfo(margin.dtype).tiny)


def input_gradient(
    network: Network, images: Images, loss: Callable[[Float[Tensor, "slot logit"]], PerSlot], *, unit: bool = False
) -> tuple[Float[Tensor, "slot logit"], PerSlot, Images]:
    """Return logits, losses, and the gradient of each image's own loss.

    With `unit` each gradient is that of a multiple of the loss, chosen so that the largest slope of the logits is 1:
    the direction stays, and a confident network's tiny slopes survive half precision.
    """

    def with_slopes(logits: Float[Tensor, "slot logit"]) -> tuple[PerSlot, Float[Tensor, "slot logit"]]:
        with torch.enable_grad():
            cut = logits.requires_grad_()
            losses = loss(cut)
            (slopes,) = torch.autograd.grad(losses.sum(), [cut])
        return losses.detach(), unit_slopes(slopes) if unit else slopes

    return pulled_back(network, images, with_slopes)


def pulled_back(
    network: Network,
    images: Images,
    loss: Callable[[Float[Tensor, "slot logit"]], tuple[PerSlot, Float[Tensor, "slot logit"]]],
) -> tuple[Float[Tensor, "slot logit"], PerSlot, Images]:
    """Return logits, losses, and the images' gradients for the slopes of the logits that `loss` names with them."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = network(leaf)
        losses, slopes = loss(logits.detach())
        (gradient,) = torch.autograd.grad(logits, [leaf], [slopes])
    return logits.detach(), losses, gradient


def unit_slopes(slopes: Float[Tensor, "slot logit"]) -> Float[Tensor, "slot logit"]:
    """Return multiples of each image's slopes whose largest is 1; slopes of 0 stay."""
    return slopes / slopes.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(slopes.dtype).tiny)


def nowhere(mask: Bool[Tensor, " slot"]) -> bool:
    """Return whether `mask` is empty, so that work can be left out; never, where looking would mean to wait."""
    return not mask.is_cuda and not bool(mask.any())
