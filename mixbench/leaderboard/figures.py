"""Geometry of the page's figures: robust accuracy against eps, and against clean accuracy."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from mixbench.leaderboard.board import Board, Line, Place
from mixbench.leaderboard.cards import counterpart_key, family
from mixbench.leaderboard.numbers import interval_text, percent, radius
from mixbench.records import EvaluationRecord

WIDTH, HEIGHT = 640, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 14, 44
_LABELS = 210
_LABEL_STEP = 15
_TENTH, _FINE = 0.1, 0.02
_LEVELS = "/255"

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """One model in a figure.

    Attributes:
        key: Which model, as the page numbers them.
        label: Its name without the dataset, which is the same for all.
        shape: "circle" for ConvMixer, "square" for ResNet, "triangle" for all others.
        path: The line through `points`, as SVG; empty in a scatter.
        label_at: Height of the label in a scatter.
    """

    key: str
    name: str
    label: str
    mixing: str
    shape: str
    dashed: bool
    points: tuple[tuple[float, float], ...]
    path: str
    text: str
    label_at: float


@dataclass(frozen=True)
class Figure:
    """A chart with its axes; `links` join models that differ in mixing alone, `unit` is what its radii count."""

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    links: tuple[str, ...]
    right: float
    unit: str = ""
    bottom: float = HEIGHT - _BOTTOM
    left: float = _LEFT
    top: float = _TOP


def curves(line: Line, board: Board, *, dashed: frozenset[str]) -> Figure:
    """Return the robust accuracy of each model against eps, on a square-root scale that keeps small radii apart."""
    largest = float(line.evaluations.eps[-1])
    right = WIDTH - _RIGHT

    def x(eps: float) -> float:
        return round(_LEFT + (right - _LEFT) * math.sqrt(eps / largest), 1)

    marks: list[Mark] = []
    for number, key in enumerate(board.models):
        curve = line.curve(key)
        if curve is not None:
            points = tuple((x(eps), _y(rate)) for eps, rate in zip(curve.eps, curve.rates, strict=True))
            marks.append(_mark(number, curve.places[-1], points, dashed, text=_curve_text(curve.places)))
    texts, unit = _radii(line.evaluations.eps)
    radii = [Tick(x(float(eps)), text) for eps, text in zip(line.evaluations.eps, texts, strict=True)]
    return Figure((Tick(x(0.0), "0"), *radii), _percent_ticks(0.0, 1.0, _y), tuple(marks), (), right, unit)


def scatter(places: Sequence[Place], board: Board, *, dashed: frozenset[str]) -> Figure:
    """Return robust against clean accuracy, models that differ in mixing alone joined by a line."""
    clean = [place.record.clean.rate for place in places]
    low = math.floor(min(clean) / _FINE) * _FINE
    top = min(1.0, math.ceil(max(place.record.robust.rate for place in places) / _TENTH + 0.5) * _TENTH)
    right = WIDTH - _LABELS
    span = max(1.0 - low, _FINE)

    def x(rate: float) -> float:
        return round(_LEFT + (right - _LEFT) * (rate - low) / span, 1)

    def y(rate: float) -> float:
        return _y(rate / top)

    numbers = {key: number for number, key in enumerate(board.models)}
    marks = [
        _mark(
            numbers[(place.record.model.name, place.record.model.sha256)],
            place,
            ((x(place.record.clean.rate), y(place.record.robust.rate)),),
            dashed,
            text=f"clean {_with_interval(place.record, clean=True)}, robust {_with_interval(place.record)}",
        )
        for place in places
    ]
    x_ticks = _percent_ticks(low, 1.0, x)
    return Figure(x_ticks, _percent_ticks(0.0, top, y), _spread(marks), _links(places, x=x, y=y), right)


def _radii(grid: Sequence[Fraction]) -> tuple[list[str], str]:
    """Return the radii as an axis writes them, and what they count: small ones would not fit as "0.25/255"."""
    texts = [radius(eps) for eps in grid]
    if all(text.endswith(_LEVELS) for text in texts):
        return [text.removesuffix(_LEVELS) for text in texts], ", in 255ths"
    return texts, ""


def _y(rate: float) -> float:
    return round(HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * rate, 1)


def _mark(
    number: int, place: Place, points: tuple[tuple[float, float], ...], dashed: frozenset[str], *, text: str
) -> Mark:
    model = place.record.model
    shape = {"convmixer": "circle", "resnet": "square"}.get(family(model.name), "triangle")
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points) if len(points) > 1 else ""
    height = next(y for _, y in points)
    label = model.name.replace(f".{place.record.dataset.name}", "", 1)
    return Mark(str(number), model.name, label, model.mixing, shape, model.name in dashed, points, path, text, height)


def _curve_text(places: Sequence[Place]) -> str:
    parts = [f"{radius(place.record.threat_model.eps)}: {percent(place.record.robust.rate)}" for place in places]
    return f"clean: {percent(places[0].record.clean.rate)}, {', '.join(parts)}"


def _with_interval(record: EvaluationRecord, *, clean: bool = False) -> str:
    accuracy = record.clean if clean else record.robust
    return f"{percent(accuracy.rate)} ({interval_text(accuracy)})"


def _percent_ticks(low: float, high: float, place: Scale) -> tuple[Tick, ...]:
    step = next(step for step in (1, 2, 5, 10, 20, 25) if 100 * (high - low) / step <= 6.001)  # noqa: PLR2004 - ticks
    first = math.ceil(100 * low / step - 1e-9)
    last = math.floor(100 * high / step + 1e-9)
    return tuple(Tick(place(n * step / 100), str(n * step)) for n in range(first, last + 1))


def _spread(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """Move labels apart that would overlap, keeping their order."""
    ordered = sorted(marks, key=lambda mark: (mark.points[0][1], mark.name))
    heights: list[float] = []
    for mark in ordered:
        lowest = heights[-1] + _LABEL_STEP if heights else float(_TOP)
        heights.append(max(mark.points[0][1], lowest))
    # What runs over the bottom pushes back up.
    limit = float(HEIGHT - _BOTTOM)
    for index in reversed(range(len(heights))):
        heights[index] = min(heights[index], limit)
        limit = heights[index] - _LABEL_STEP
    return tuple(replace(mark, label_at=round(height, 1)) for mark, height in zip(ordered, heights, strict=True))


def _links(places: Sequence[Place], *, x: Scale, y: Scale) -> tuple[str, ...]:
    groups: dict[str, list[Place]] = {}
    for place in places:
        if place.rank is not None and place.record.model.mixing in {"trained", "frozen"}:
            groups.setdefault(counterpart_key(place.record.model), []).append(place)

    def at(place: Place) -> str:
        return f"{x(place.record.clean.rate):g} {y(place.record.robust.rate):g}"

    return tuple(
        f"M{at(a)}L{at(b)}"
        for _, group in sorted(groups.items())
        for a, b in itertools.combinations(group, 2)
        if a.record.model.mixing != b.record.model.mixing
    )
