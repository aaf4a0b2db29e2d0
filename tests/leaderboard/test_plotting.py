from pathlib import Path

import pytest

from mixbench.errors import InvalidInputError
from mixbench.leaderboard import read
from mixbench.leaderboard.plotting import plot_curves
from mixbench.records import EvaluationRecord, ThreatModelField
from mixbench.threat_model import Norm
from tests.leaderboard.boards_for_tests import Toy, add_records
from tests.leaderboard.conftest import STRONG, WEAK


@pytest.fixture
def records(folder: Path) -> list[EvaluationRecord]:
    """The records of the toy board, six in all."""
    return [verdicts.record for verdicts in read(folder).verdicts]


def test_an_svg_has_every_curve_and_is_the_same_for_the_same_records(records: list[EvaluationRecord]) -> None:
    drawn = plot_curves(records, file_format="svg")
    assert drawn == plot_curves(records[::-1], file_format="svg")
    for name in (STRONG.name, WEAK.name):
        assert f"<!-- {name}, PGD-20 -->".encode() in drawn


def test_a_png_is_one(records: list[EvaluationRecord]) -> None:
    assert plot_curves(records, file_format="png").startswith(b"\x89PNG\r\n")


def test_a_name_is_no_formula(folder: Path) -> None:
    added = add_records(folder, Toy("$\\frac$", ["robust"] * 40))
    assert b"$\\frac$, PGD-20" in plot_curves(added, file_format="svg")


@pytest.mark.parametrize(
    ("changed", "fragment"),
    [
        (lambda r: {"dataset": r.dataset.model_copy(update={"fingerprint": "0" * 64})}, "dataset fingerprint"),
        (lambda r: {"threat_model": ThreatModelField(norm=Norm.L2, eps=r.threat_model.eps)}, "norm"),
    ],
    ids=["dataset", "norm"],
)
def test_what_cannot_be_compared_shares_no_figure(
    records: list[EvaluationRecord], changed: "object", fragment: str
) -> None:
    assert callable(changed)
    other = records[1].model_copy(update=changed(records[1]))
    with pytest.raises(InvalidInputError, match=fragment):
        plot_curves([records[0], other], file_format="png")


def test_one_radius_twice_is_refused(records: list[EvaluationRecord]) -> None:
    with pytest.raises(InvalidInputError, match="same model, attack and eps"):
        plot_curves([records[0], records[0]], file_format="png")


def test_another_format_is_refused(records: list[EvaluationRecord]) -> None:
    with pytest.raises(InvalidInputError, match=r"'gif'.*\.png or \.svg"):
        plot_curves(records, file_format="gif")
