"""The picture of a training run."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mixbench.files import storage_error
from mixbench.training.log import Epoch


def draw_curves(path: Path, epochs: Sequence[Epoch], *, title: str) -> None:
    """Draw loss, accuracies and learning rate against the epoch into `path`; raises RecordError if it cannot."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    numbers = [epoch.number for epoch in epochs]
    accuracies = {
        "training batches": [epoch.accuracy for epoch in epochs],
        "held-out examples, clean": [epoch.validation for epoch in epochs],
        "a training batch under PGD-5": [epoch.robust for epoch in epochs],
    }
    for label, measured in accuracies.items():
        rates = [100 * accuracy.rate for accuracy in measured if accuracy is not None]
        if len(rates) == len(numbers):
            top.plot(numbers, rates, label=label)
    top.set(ylabel="accuracy (%)", title=title)
    top.legend(loc="lower right")
    bottom.plot(numbers, [epoch.loss for epoch in epochs], label="training loss")
    bottom.set(xlabel="epoch", ylabel="cross-entropy")
    rate = bottom.twinx()
    rate.plot(numbers, [epoch.learning_rate for epoch in epochs], color="0.7", label="learning rate")
    rate.set_ylabel("learning rate")
    for axes in (top, bottom):
        axes.grid(visible=True, alpha=0.3)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise storage_error(path, error) from error
