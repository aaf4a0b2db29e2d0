"""Curves of robust accuracy against eps as a PNG or SVG file."""

import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixbench.errors import InvalidInputError
from mixbench.leaderboard.numbers import attack_title, interval_of, radius
from mixbench.records import EvaluationRecord

FORMATS = ("png", "svg")
_INCHES = (7.2, 4.4)
_DPI = 200
_HASH_SALT = "mixbench"


def plot_curves(records: Sequence[EvaluationRecord], *, file_format: str) -> bytes:
    """Return a figure with a curve for each model and attack, with 95% Wilson intervals, as PNG or SVG.

    Raises InvalidInputError unless all records are of the same examples and norm, and each curve has a radius once.
    """
    if file_format not in FORMATS:
        raise InvalidInputError(f"a figure cannot be written as {file_format!r}: name the file .png or .svg")
    _check_plottable(records)
    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for label, found in sorted(_curves(records).items()):
        clean = found[0].clean
        accuracies = [clean, *(record.robust for record in found)]
        intervals = [interval_of(accuracy) for accuracy in accuracies]
        rates = [100 * accuracy.rate for accuracy in accuracies]
        below = [rate - 100 * interval.low for rate, interval in zip(rates, intervals, strict=True)]
        above = [100 * interval.high - rate for rate, interval in zip(rates, intervals, strict=True)]
        eps = [0.0, *(float(record.threat_model.eps) for record in found)]
        axes.errorbar(eps, rates, yerr=[below, above], label=label, marker="o", markersize=4, capsize=2, linewidth=1.4)
    _label(axes, records)
    buffer = io.BytesIO()
    # Without a date and with a fixed salt for its ids, an SVG is the same for the same records.
    with mpl.rc_context({"svg.hashsalt": _HASH_SALT}):
        figure.savefig(buffer, format=file_format, metadata={"Date": None} if file_format == "svg" else None)
    return buffer.getvalue()


def _check_plottable(records: Sequence[EvaluationRecord]) -> None:
    first = records[0]
    for record in records:
        for what, told, found in (
            ("dataset fingerprint", first.dataset.fingerprint, record.dataset.fingerprint),
            ("norm", first.threat_model.norm.value, record.threat_model.norm.value),
        ):
            if told != found:
                raise InvalidInputError(
                    f"{first.id} and {record.id} cannot share a figure: their {what} is {told} and {found}; plot them"
                    " one by one"
                )


def _curves(records: Sequence[EvaluationRecord]) -> dict[str, list[EvaluationRecord]]:
    """Return the records of each model and attack by rising eps."""
    curves: dict[str, list[EvaluationRecord]] = {}
    for record in sorted(records, key=lambda record: (record.threat_model.eps, record.id)):
        curve = curves.setdefault(f"{record.model.name}, {attack_title(record.attack)}", [])
        if curve and curve[-1].threat_model.eps == record.threat_model.eps:
            raise InvalidInputError(
                f"{curve[-1].id} and {record.id} are of the same model, attack and eps: give one of them"
            )
        curve.append(record)
    return curves


def _label(axes: Axes, records: Sequence[EvaluationRecord]) -> None:
    first = records[0]
    radii = sorted({record.threat_model.eps for record in records})
    axes.set_xticks([0.0, *map(float, radii)], ["0", *map(radius, radii)])
    axes.set_xlabel(f"{first.threat_model.norm.value} eps")
    axes.set_ylabel("robust accuracy, %")
    axes.set_ylim(0, 100)
    # A name with a dollar sign is no formula.
    axes.set_title(
        f"{first.dataset.name}, {first.dataset.n} {first.dataset.split} images", loc="left", parse_math=False
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    for text in axes.legend(frameon=False, fontsize="small").get_texts():
        text.set_parse_math(False)
