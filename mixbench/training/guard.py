"""The guard against catastrophic overfitting: a network that withstands its own training attack and no other."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixbench.errors import MixbenchError
from mixbench.records import Accuracy
from mixbench.training.adversary import adversarial_batch
from mixbench.training.augmentation import draw
from mixbench.training.log import Epoch
from mixbench.training.recipes import Recipe

_STEPS = 5
_RELATIVE_STEP_SIZE = 0.4
_TOLERATED_FALL = 0.20


class OverfittingGuard:
    """Measures one training batch under PGD with 5 steps after each epoch, and stops a run whose robustness falls.

    A fall of more than 20 points below the best epoch so far, with eps at its full size, is what the fast adversarial
    training of arXiv 2001.03994 stops at. Without adversarial training nothing is measured.
    """

    def __init__(
        self,
        fast: nn.Module,
        images: Float[Tensor, "example channel height width"],
        labels: Int64[Tensor, " example"],
        recipe: Recipe,
        *,
        seed: int,
    ) -> None:
        self._fast, self._recipe = fast, recipe
        self._images, self._labels = images[: recipe.batch_size], labels[: recipe.batch_size]
        # A stream of its own, so that measuring changes nothing.
        generator = torch.Generator(images.device).manual_seed(seed)
        n, channels, height, width = self._images.shape
        self._start = draw(recipe, (n, channels, height, width), generator).start

    def measure(self) -> Accuracy | None:
        """Return the accuracy of the batch under attack, or None without adversarial training."""
        training = self._recipe.adversarial
        if training is None or self._start is None:
            return None
        eps = float(training.threat_model.eps)
        adversarial = adversarial_batch(
            self._fast,
            self._images,
            self._labels,
            self._start,
            norm=training.threat_model.norm,
            eps=eps,
            step_size=_RELATIVE_STEP_SIZE * eps,
            steps=_STEPS,
        )
        was_training = self._fast.training
        with torch.no_grad():
            predictions = self._fast.eval()(adversarial).argmax(1)
        self._fast.train(was_training)
        return Accuracy(correct=int((predictions == self._labels).sum()), total=len(self._labels))

    def check(self, epochs: list[Epoch], *, kept: str) -> None:
        """Raise MixbenchError if the last of `epochs` fell too far; `kept` says where the state before it is."""
        measured = [epoch for epoch in epochs if epoch.robust is not None]
        if not measured:
            return
        best = max(measured, key=lambda epoch: epoch.robust.rate if epoch.robust else 0.0)
        last = measured[-1]
        assert best.robust is not None and last.robust is not None  # noqa: PT018, S101 - filtered above
        if best.robust.rate - last.robust.rate > _TOLERATED_FALL:
            raise MixbenchError(
                f"accuracy under PGD-5 on a training batch fell from {best.robust.rate:.1%} in epoch {best.number} to"
                f" {last.robust.rate:.1%} in epoch {last.number}: catastrophic overfitting, so give the recipe more"
                f" steps or a smaller step size{kept}"
            )
