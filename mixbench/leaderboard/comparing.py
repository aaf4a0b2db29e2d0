"""What became of each example, packed small enough for a page to compare any two models."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from mixbench.leaderboard.board import Board, Line, Place
from mixbench.leaderboard.numbers import attack_title, threat_model_text
from mixbench.store import MISCLASSIFIED, ROBUST

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""0 is never broken, 1 misclassified without attack, and 2 + STAGES * RADIUS + STAGE first broken at that radius by
that stage, both counted from 0."""


def compared_lines(board: Board) -> list[dict[str, object]]:
    """Return for each line its attack, radii and stages, and the packed verdicts of each model by its number."""
    return [_line(board, line) for line in board.lines]


def _line(board: Board, line: Line) -> dict[str, object]:
    first = line.rankings[0].first
    packed: Mapping[str, str | None] = {
        str(number): pack([ranking.by_model.get(key) for ranking in line.rankings])
        for number, key in enumerate(board.models)
    }
    return {
        "attack": attack_title(first.attack),
        "threat_models": [threat_model_text(ranking.threat_model) for ranking in line.rankings],
        "stages": list(first.broken_by),
        "n": first.dataset.n,
        "fates": {number: text for number, text in packed.items() if text is not None},
    }


def pack(places: Sequence[Place | None]) -> str | None:
    """Return a character an example for one model at rising radii, or None if they cannot be told so.

    They can where every radius was evaluated, and no example broken at one is robust at a larger one.
    """
    fates = [place.verdicts.fate for place in places if place is not None]
    stages = list(places[0].record.broken_by) if places[0] is not None else []
    if len(fates) < len(places) or MISCLASSIFIED + 1 + len(stages) * len(places) > len(ALPHABET):
        return None
    codes = _first_broken(fates, stages=len(stages))
    for radius, fate in enumerate(fates):
        if not np.array_equal(_robust_at(codes, radius, stages=len(stages)), fate == ROBUST):
            return None
    return "".join(ALPHABET[code] for code in codes)


def _first_broken(fates: Sequence[Int64[np.ndarray, " example"]], *, stages: int) -> Int64[np.ndarray, " example"]:
    codes = np.zeros_like(fates[0])
    for radius, fate in enumerate(fates):
        new = (codes == ROBUST) & (fate != ROBUST)
        codes[new] = np.where(fate[new] == MISCLASSIFIED, MISCLASSIFIED, fate[new] + stages * radius)
    return codes


def _robust_at(codes: Int64[np.ndarray, " example"], radius: int, *, stages: int) -> np.ndarray:
    return (codes == ROBUST) | (codes >= MISCLASSIFIED + 1 + stages * (radius + 1))
