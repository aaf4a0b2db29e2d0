"""How the network behaves: what an honest image classifier does and one built to fool an attack may not."""

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixbench.attacks import Engine
from mixbench.datasets import Examples
from mixbench.errors import RecordError
from mixbench.evaluation.engine import engine_for
from mixbench.evaluation.metering import MeteredModel, fitting_micro_batch, memory_budget
from mixbench.evaluation.model_checks import check_outputs
from mixbench.evaluation.verification import judge
from mixbench.models import LoadedModel
from mixbench.records import Accuracy
from mixbench.submission.evidence import Evidence
from mixbench.submission.manifest import CONFIG_NAME

_CPU = torch.device("cpu")
_INSPECTED = 64
_CALIBRATED = 512
_ALONE = 4
_BATCH_TOLERANCE = 1e-4
_MARGIN_TOLERANCE = 1e-3
_MOST_ZERO_GRADIENTS = 0.05


class Subject:
    """A network with the examples it is judged on, on the CPU, cut into micro-batches that fit the memory."""

    def __init__(self, loaded: LoadedModel, examples: Examples) -> None:
        self.model: nn.Module = loaded.module
        self.num_classes = examples.num_classes
        self.images: Float[Tensor, "example channel height width"] = (
            torch.from_numpy(np.array(examples.images)).float() / 255
        )
        self.labels: Int64[Tensor, " example"] = torch.from_numpy(np.array(examples.labels))
        self._micro_batch = 0

    @property
    def micro_batch(self) -> int:
        """How many images are passed at once."""
        if not self._micro_batch:
            self._micro_batch = fitting_micro_batch(self.model, self.images[:1], budget=memory_budget(_CPU))
        return self._micro_batch

    def metered(self, images: Tensor, *, engine: Engine | None = None) -> MeteredModel:
        """Return the network as an attack on `images` may see it, with `engine` for an attack that searches with it."""
        return MeteredModel(
            self.model, images=images, num_classes=self.num_classes, micro_batch=self.micro_batch, engine=engine
        )

    @cached_property
    def engine(self) -> Engine:
        """The fast engine for the network."""
        images, labels = self.images[:_CALIBRATED], self.labels[:_CALIBRATED]
        return engine_for(self.model, images, labels, micro_batch=self.micro_batch)[0]


def check_eval_mode(subject: Subject) -> str:
    """Return that no example's logits depend on the others; raises RecordError."""
    training = [name for name, module in subject.model.named_modules() if module.training]
    if training:
        raise RecordError(
            f"{training[0] or 'the network'} stays in train mode after eval(): its output depends on the batch"
        )
    images = subject.images[:_INSPECTED]
    with torch.no_grad():
        together, reverse = subject.model(images), subject.model(images.flip(0)).flip(0)
        alone = torch.cat([subject.model(image[None]) for image in images[:_ALONE]])
    scale = max(1.0, float(together.abs().max()))
    difference = max(float((together - reverse).abs().max()), float((together[:_ALONE] - alone).abs().max()))
    if not difference <= _BATCH_TOLERANCE * scale:
        raise RecordError(f"logits change by {difference:.3g} with the other images of the batch: use eval mode")
    return f"logits do not depend on the batch (largest difference {difference:.2g})"


def check_determinism(subject: Subject) -> str:
    """Return that equal inputs give equal bits, whatever the global generator holds; raises RecordError."""
    images = subject.images[:_INSPECTED]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = subject.model(images)
        torch.manual_seed(1)
        again = [subject.model(images) for _ in range(2)]
    differing = int(max((first != logits).any(1).sum() for logits in again))
    if differing:
        raise RecordError(
            f"the same {len(images)} images gave other logits a second time ({differing} of them): a network that looks"
            " at random numbers is not judged by one forward pass"
        )
    return f"three passes of {len(images)} images gave the same bits"


def check_logits(subject: Subject) -> str:
    """Return that the network gives finite logits for the dataset's classes; raises InvalidInputError."""
    images = subject.images[:_INSPECTED]
    check_outputs(subject.model, images, num_classes=subject.num_classes)
    return f"finite logits for {subject.num_classes} classes"


def check_input_range(subject: Subject) -> str:
    """Return that the corners of the box and noise are images like any other; raises InvalidInputError."""
    size = subject.images.shape[1:]
    noise = torch.rand((2, *size), generator=torch.Generator().manual_seed(0))
    images = torch.cat([torch.zeros(1, *size), torch.ones(1, *size), noise])
    check_outputs(subject.model, images, num_classes=subject.num_classes)
    return "finite logits for black, white and noise images in [0, 1]"


def check_gradients(subject: Subject) -> tuple[str, tuple[str, ...]]:
    """Return what was found and doubts; raises RecordError if input gradients vanish, which blinds gradient attacks.

    Looked at are the gradients of the cross-entropy, which attacks follow and saturation kills, and of the margin,
    which only a network that is flat or cuts its graph lacks.
    """
    images, labels = subject.images[:_INSPECTED], subject.labels[:_INSPECTED]
    shares: list[str] = []
    doubts: list[str] = []
    for name, loss in (("cross-entropy", _cross_entropy), ("margin", _margin)):
        zero = _zero_gradients(subject, images, labels, loss)
        share = zero / len(images)
        if share > _MOST_ZERO_GRADIENTS:
            raise RecordError(
                f"the gradient of the {name} is zero or not finite for {zero} of {len(images)} images: gradient attacks"
                " are blind, so robust accuracy is overestimated"
            )
        shares.append(f"{name} {zero}")
        if zero:
            doubts.append(f"the gradient of the {name} is zero for {zero} of {len(images)} images")
    return f"zero input gradients among {len(images)} images: {', '.join(shares)}", tuple(doubts)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, labels, reduction="sum")


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    true = logits.gather(1, labels[:, None])
    return (true.squeeze(1) - logits.scatter(1, labels[:, None], -torch.inf).amax(1)).sum()


def _zero_gradients(subject: Subject, images: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> int:
    leaf = images.clone().requires_grad_()
    with torch.enable_grad():
        value = loss(subject.metered(images)(leaf), labels)
        if not value.requires_grad:
            return len(images)
        (gradient,) = torch.autograd.grad(value, [leaf], materialize_grads=True)
    largest = gradient.abs().flatten(1).amax(1)
    return int((~(torch.isfinite(largest) & (largest > 0))).sum())


def replay_clean(subject: Subject, evidence: Evidence, stated: Accuracy | None) -> tuple[str, tuple[str, ...]]:
    """Return the clean accuracy found here and doubts; raises RecordError if record or card claim another.

    Predictions and margins are compared example by example; examples with a margin below 1e-3 may flip, since the
    record may come from another device. `stated` is what the checkpoint's card says of the whole test split.
    """
    verdicts = judge(subject.model, subject.images, subject.labels, micro_batch=subject.micro_batch)
    margins, predictions = verdicts.margins.numpy(), verdicts.predictions.numpy()
    told_margins = evidence.table["margin"].to_numpy(np.float64)
    told = evidence.table["clean_prediction"].to_numpy(np.int64)
    tolerance = _MARGIN_TOLERANCE * np.maximum(1.0, np.abs(margins))
    borderline = np.abs(margins) <= tolerance
    wrong = int(((predictions != told) & ~borderline).sum())
    other = int((~(np.abs(told_margins - margins) <= tolerance)).sum())
    if wrong or other:
        raise RecordError(
            f"record {evidence.record.id}: {wrong} predictions and {other} margins of {len(told)} are not those of the"
            " network: evaluate this checkpoint again"
        )
    correct = int((~verdicts.broken).sum())
    found = f"{correct} of {len(told)} correct here, {evidence.record.clean.correct} in the record"
    if stated is None:
        return found, ()
    if stated.total != len(told):
        return found, (f"{found}; the card's clean accuracy is of {stated.total} examples and was not replayed",)
    if abs(stated.correct - correct) > int(borderline.sum()):
        raise RecordError(f"{found}, but {stated.correct} on the card in {CONFIG_NAME}: pack the submission again")
    return found, ()


CHECKS: Mapping[str, Callable[[Subject], str | tuple[str, tuple[str, ...]]]] = {
    "logits": check_logits,
    "eval mode": check_eval_mode,
    "determinism": check_determinism,
    "input range": check_input_range,
    "gradients": check_gradients,
}
"""What is asked of the network itself, in this order."""
