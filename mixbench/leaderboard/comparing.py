"""What became of each example, packed small enough for a page to compare any two models."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from mixbench.leaderboard.board import Board, Line, Place, Setting
from mixbench.leaderboard.numbers import attack_title
from mixbench.leaderboard.rows import setting_text
from mixbench.store import MISCLASSIFIED, ROBUST

ALPHABET = "".join(chr(code) for code in range(33, 127) if chr(code) not in '"\\<')
"""The digits of packed verdicts: visible ASCII without what JSON or HTML would write with more than a character."""

DIGITS = 3
"""Packed verdicts are numbers of so many digits, each of as many examples as fit."""


def compared_lines(board: Board) -> list[dict[str, object]]:
    """Return for each line its attack, settings and stages, and the packed verdicts of each model by its number."""
    return [_line(board, line) for line in board.lines]


def _line(board: Board, line: Line) -> dict[str, object]:
    first = line.rankings[0].first
    packed: Mapping[str, str | None] = {
        str(number): pack([ranking.by_model.get(key) for ranking in line.rankings])
        for number, key in enumerate(board.models)
    }
    return {
        "attack": attack_title(first.attack),
        "settings": [
            setting_text(board, Setting(ranking.threat_model, line.evaluations.subset)) for ranking in line.rankings
        ],
        "stages": list(first.broken_by),
        "n": first.dataset.n,
        "fates": {number: text for number, text in packed.items() if text is not None},
    }


def pack(places: Sequence[Place | None]) -> str | None:
    """Return what became of each example of one model at rising radii, or None if it cannot be told in one code.

    It can where every radius was evaluated, and no example broken at one is robust at a larger one. A code is 0 where
    the example is never broken, 1 where it is misclassified without attack, and 2 + STAGES * RADIUS + STAGE where it is
    first broken at that radius by that stage, both counted from 0. `pack_codes` writes the codes.
    """
    fates = [place.verdicts.fate for place in places if place is not None]
    stages = list(places[0].record.broken_by) if places[0] is not None else []
    n_codes = MISCLASSIFIED + 1 + len(stages) * len(places)
    if len(fates) < len(places) or n_codes > len(ALPHABET) ** DIGITS:
        return None
    codes = _first_broken(fates, stages=len(stages))
    for radius, fate in enumerate(fates):
        if not np.array_equal(_robust_at(codes, radius, stages=len(stages)), fate == ROBUST):
            return None
    return pack_codes(codes, n_codes=n_codes)


def pack_codes(codes: Int64[np.ndarray, " example"], *, n_codes: int) -> str:
    """Return codes from 0 to `n_codes` - 1 as text: `DIGITS` digits for every group of examples, the first lowest."""
    size = 1
    while n_codes ** (size + 1) <= len(ALPHABET) ** DIGITS:
        size += 1
    groups = np.pad(codes, (0, -len(codes) % size)).reshape(-1, size) @ n_codes ** np.arange(size)
    digits = groups[:, None] // len(ALPHABET) ** np.arange(DIGITS) % len(ALPHABET)
    return np.frombuffer(ALPHABET.encode(), dtype=np.uint8)[digits.ravel()].tobytes().decode()


def _first_broken(fates: Sequence[Int64[np.ndarray, " example"]], *, stages: int) -> Int64[np.ndarray, " example"]:
    codes = np.zeros_like(fates[0])
    for radius, fate in enumerate(fates):
        new = (codes == ROBUST) & (fate != ROBUST)
        codes[new] = np.where(fate[new] == MISCLASSIFIED, MISCLASSIFIED, fate[new] + stages * radius)
    return codes


def _robust_at(codes: Int64[np.ndarray, " example"], radius: int, *, stages: int) -> np.ndarray:
    return (codes == ROBUST) | (codes >= MISCLASSIFIED + 1 + stages * (radius + 1))
