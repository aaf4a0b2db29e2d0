"""Forward and backward of one update, run as written or replayed from a CUDA graph."""

from dataclasses import fields, replace
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from mixbench.stepping import CapturedStep
from mixbench.training.adversary import adversarial_batch
from mixbench.training.augmentation import Draws, augmented
from mixbench.training.recipes import AdversarialTraining, Recipe


class Run(Protocol):
    """Something that does what a Step does."""

    def __call__(self, chosen: Int64[Tensor, " batch"], draws: Draws) -> None:
        """Leave the gradients of the batch `chosen` in the parameters and add its figures to the sums."""
        ...


class Step:
    """One update up to its gradients; figures are summed on the device, since reading them would make the host wait.

    Attributes:
        loss_sum: Sum of the losses of all examples since `begin_epoch`.
        correct: How many of them were classified correctly.
        updates: How many updates there were since `begin_epoch`.
        first_bad: Number, from 0, of the first update whose loss was not finite; -1 for none.
    """

    def __init__(
        self,
        fast: nn.Module,
        images: Float[Tensor, "example channel height width"],
        labels: Int64[Tensor, " example"],
        recipe: Recipe,
    ) -> None:
        self._fast, self._images, self._labels, self._recipe = fast, images, labels, recipe
        self._parameters = [parameter for parameter in fast.parameters() if parameter.requires_grad]
        device = images.device
        self.loss_sum = torch.zeros((), device=device)
        self.correct, self.updates, self.first_bad = (
            torch.zeros((), dtype=torch.int64, device=device) for _ in range(3)
        )
        self._eps, self._step_size = torch.zeros((), device=device), torch.zeros((), device=device)
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Set all sums back."""
        for total in (self.loss_sum, self.correct, self.updates):
            total.zero_()
        self.first_bad.fill_(-1)

    def set_eps(self, eps: float, *, step_size: float) -> None:
        """Search for adversarial examples within `eps` from now on."""
        self._eps.fill_(eps)
        self._step_size.fill_(step_size)

    def __call__(self, chosen: Int64[Tensor, " batch"], draws: Draws) -> None:
        """Leave the gradients of the batch `chosen` in the parameters and add its figures to the sums."""
        labels = self._labels[chosen]
        batch = augmented(self._images[chosen], self._recipe, draws)
        if self._recipe.adversarial is not None:
            batch = self._attacked(batch, labels, draws, self._recipe.adversarial)
        logits = self._fast.train()(batch)
        loss = functional.cross_entropy(logits, labels)
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()
        detached = loss.detach()
        self.loss_sum += detached * len(batch)
        self.correct += (logits.detach().argmax(1) == labels).sum()
        bad = ~torch.isfinite(detached) & (self.first_bad < 0)
        self.first_bad.copy_(torch.where(bad, self.updates, self.first_bad))
        self.updates += 1

    def _attacked(self, batch: Tensor, labels: Tensor, draws: Draws, training: AdversarialTraining) -> Tensor:
        assert draws.start is not None, "draws of an adversarial recipe have a start"  # noqa: S101 - cannot happen
        return adversarial_batch(
            self._fast,
            batch,
            labels,
            draws.start,
            norm=training.threat_model.norm,
            eps=self._eps,
            step_size=self._step_size,
            steps=training.steps,
        )


class GraphedStep:
    """A Step captured as a CUDA graph: one launch an update, for batches of one size."""

    def __init__(self, step: Step, fast: nn.Module, chosen: Int64[Tensor, " batch"], draws: Draws) -> None:
        self._chosen, self._draws = chosen.clone(), _copied(draws)
        self._captured = CapturedStep(lambda: step(self._chosen, self._draws), moved=fast.buffers())
        step.begin_epoch()

    def __call__(self, chosen: Int64[Tensor, " batch"], draws: Draws) -> None:
        """Do what the step does, with other inputs."""
        self._chosen.copy_(chosen)
        for own, given in zip(self._draws.tensors(), draws.tensors(), strict=True):
            own.copy_(given)
        self._captured()


def _copied(draws: Draws) -> Draws:
    values = {field.name: getattr(draws, field.name) for field in fields(draws)}
    return replace(draws, **{name: value.clone() for name, value in values.items() if value is not None})
