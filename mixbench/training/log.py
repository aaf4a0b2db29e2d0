"""How a training run went, epoch by epoch."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mixbench.records import Accuracy

COLUMNS = ("epoch", "loss", "accuracy", "validation_accuracy", "pgd5_accuracy", "learning_rate", "seconds")
_ACCURACIES = ("accuracy", "validation", "robust")


@dataclass(frozen=True)
class Epoch:
    """How an epoch went.

    Attributes:
        number: From 1 to `epochs`.
        loss: Mean cross-entropy over the (adversarial) training batches.
        accuracy: On the same batches.
        validation: Clean accuracy on the held-out examples after the epoch; None where none are held out.
        robust: Accuracy of one training batch under PGD with 5 steps; None without adversarial training.
        learning_rate: Of the last update.
        seconds: Wall time.
    """

    number: int
    epochs: int
    loss: float
    accuracy: Accuracy
    validation: Accuracy | None
    robust: Accuracy | None
    learning_rate: float
    seconds: float


def values_of(epoch: Epoch) -> dict[str, Any]:
    """Return `epoch` as plain numbers and pairs of counts."""
    accuracies = {name: getattr(epoch, name) for name in _ACCURACIES}
    pairs = {name: None if value is None else [value.correct, value.total] for name, value in accuracies.items()}
    return {**{field.name: getattr(epoch, field.name) for field in fields(epoch)}, **pairs}


def epoch_from(values: Mapping[str, Any]) -> Epoch:
    """Return the epoch that `values_of` gave these values."""
    restored: dict[str, Any] = dict(values)
    for name in _ACCURACIES:
        pair = values[name]
        restored[name] = None if pair is None else Accuracy(correct=pair[0], total=pair[1])
    return Epoch(**restored)


def training_csv(epochs: Sequence[Epoch]) -> str:
    """Return the epochs as CSV with a header; accuracies in [0, 1], empty where not measured."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for epoch in epochs:
        accuracies = [
            "" if accuracy is None else f"{accuracy.rate:.6f}"
            for accuracy in (epoch.accuracy, epoch.validation, epoch.robust)
        ]
        row = (epoch.number, f"{epoch.loss:.6f}", *accuracies, f"{epoch.learning_rate:.6g}", f"{epoch.seconds:.3f}")
        writer.writerow(row)
    return buffer.getvalue()
