import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mixbench.comparison import compare
from mixbench.leaderboard import rank, read
from mixbench.leaderboard.comparing import ALPHABET, compared_lines, pack, pack_codes
from mixbench.store import load_evaluation
from tests.leaderboard.boards_for_tests import Toy, add_records
from tests.leaderboard.conftest import EQUAL, STRONG, WEAK


def codes(line: dict, model: int) -> list[int]:
    """The codes of all examples, taken from the text digit by digit."""
    n_codes = 2 + len(line["stages"]) * len(line["settings"])
    size = max(size for size in range(1, 20) if n_codes**size <= 91**3)
    digits = [ALPHABET.index(digit) for digit in line["fates"][str(model)]]
    told: list[int] = []
    for low, middle, high in zip(digits[::3], digits[1::3], digits[2::3], strict=True):
        number = low + 91 * middle + 91 * 91 * high
        for _ in range(size):
            number, code = divmod(number, n_codes)
            told.append(code)
    assert not any(told[line["n"] :])
    return told[: line["n"]]


def fates(line: dict, model: int, radius: int) -> list[str]:
    """What the page reads from the packed text: "robust", "clean" or the stage that broke the example."""
    stages, told = line["stages"], []
    for code in codes(line, model):
        broken = code >= 2 and (code - 2) // len(stages) <= radius
        told.append("clean" if code == 1 else stages[(code - 2) % len(stages)] if broken else "robust")
    return told


@pytest.fixture
def attacked(folder: Path) -> Path:
    """The toy board with AutoAttack, whose two stages break at both radii."""
    ways = ["apgd-ce@1/20", "square@1/20", "apgd-ce@1/10", "square@1/10", "robust", "wrong"]
    for seed, toy in enumerate((STRONG, WEAK, EQUAL)):
        chosen = np.random.default_rng(seed).choice(ways, size=40)
        add_records(folder, Toy(toy.name, list(chosen), mixing=toy.mixing), attack="autoattack")
    return folder


@pytest.mark.parametrize("radius", [0, 1])
def test_the_packed_verdicts_compare_as_the_records_do(attacked: Path, radius: int) -> None:
    (board,) = rank(read(attacked)).boards
    line = compared_lines(board)[-1]
    told = [fates(line, model, radius) for model in range(3)]
    stored = [
        load_evaluation(board.lines[-1].rankings[radius].by_model[key].verdicts.folder) for key in board.models
    ]  # fmt: skip
    for a in range(3):
        for b in range(3):
            found = compare(stored[a], stored[b], outcome="robust")
            robust = Counter((x == "robust", y == "robust") for x, y in zip(told[a], told[b], strict=True))
            assert (found.both, found.only_first) == (robust[True, True], robust[True, False])
            lost = Counter(y for x, y in zip(told[a], told[b], strict=True) if x == "robust" != y)
            assert dict(found.second_lost_to) == {stage: lost[stage] for stage in ("clean", *line["stages"])}


def test_verdicts_that_do_not_fall_with_eps_are_not_packed(folder: Path) -> None:
    (board,) = rank(read(folder)).boards
    (line,) = board.lines
    small, large = (ranking.by_model[board.models[0]] for ranking in line.rankings)
    assert pack([small, large]) is not None
    assert pack([large, small]) is None
    assert pack([small, None]) is None


def test_what_the_page_compares_by_is_json(attacked: Path) -> None:
    (board,) = rank(read(attacked)).boards
    lines = compared_lines(board)
    assert json.loads(json.dumps(lines)) == lines


@pytest.mark.parametrize("n_codes", [3, 5, 8, 26, 90, 91, 92, 91**3])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_packed_codes_are_read_as_they_were(n_codes: int, n: int) -> None:
    told = np.random.default_rng(n_codes + n).integers(0, n_codes, size=n)
    told[-1] = n_codes - 1
    line = {"n": n, "stages": ["any"] * (n_codes - 2), "settings": [""]}
    assert codes(line | {"fates": {"0": pack_codes(told, n_codes=n_codes)}}, 0) == told.tolist()


def test_the_digits_need_no_escape() -> None:
    assert len(ALPHABET) == len(set(ALPHABET)) == 91
    assert json.dumps(ALPHABET) == f'"{ALPHABET}"'
    assert "<" not in ALPHABET
