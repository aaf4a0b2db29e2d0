import dataclasses
import random
from pathlib import Path

import pytest

from mixbench.leaderboard import Leaderboard, rank, read
from mixbench.leaderboard.board import Setting
from mixbench.leaderboard.rows import rows_of
from mixbench.threat_model import ThreatModel
from tests.leaderboard.boards_for_tests import Toy, add_records, show_half, write_card
from tests.leaderboard.conftest import EQUAL, STRONG, WEAK

TENTH, TWENTIETH = (Setting(ThreatModel.parse(f"Linf {eps}"), "all") for eps in ("1/10", "1/20"))


def ranks(leaderboard: Leaderboard, setting: Setting = TENTH) -> dict[str, str]:
    (board,) = leaderboard.boards
    return {place.record.model.name: str(place.rank) for place in board.deciding(setting).places}


def test_models_rank_by_what_survives_and_share_a_rank_where_the_data_cannot_tell(folder: Path) -> None:
    assert ranks(rank(read(folder))) == {STRONG.name: "1", WEAK.name: "2-3", EQUAL.name: "2-3"}


def test_the_order_of_the_records_does_not_matter(folder: Path) -> None:
    contents = read(folder)
    shuffled = list(contents.verdicts)
    random.Random(0).shuffle(shuffled)  # noqa: S311 - any order will do
    assert shuffled != list(contents.verdicts)
    again = rank(dataclasses.replace(contents, verdicts=tuple(shuffled)))
    assert ranks(again) == ranks(rank(contents))


@pytest.mark.parametrize("other", [{"seed": 8}, {"steps": "40"}, {"grid": ("1/10",)}], ids=["seed", "steps", "grid"])
def test_records_of_another_protocol_never_share_a_ranking(folder: Path, other: dict) -> None:
    before = ranks(rank(read(folder)))
    add_records(folder, Toy("resnet_trained.toy", ["robust"] * 40), **other)
    leaderboard = rank(read(folder))
    assert ranks(leaderboard) == before
    assert all(len({p.record.protocol.hash for p in ranking.places}) == 1 for ranking in leaderboard.rankings)
    assert {ranking.places[0].record.model.name for ranking in leaderboard.boards[0].others} == {"resnet_trained.toy"}


def test_a_record_of_an_earlier_checkpoint_is_stale_and_has_no_rank(folder: Path) -> None:
    add_records(folder, Toy(STRONG.name, ["robust"] * 40, sha256="b" * 64, mixing="trained"))
    (board,) = rank(read(folder)).boards
    places = board.deciding(TENTH).places
    assert [(place.state, place.rank is None) for place in places] == [("current", False)] * 3 + [("stale", True)]
    assert places[-1].record.model.sha256 == "b" * 64


def test_a_model_without_a_checkpoint_is_ranked_and_said_to_be_unlisted(folder: Path) -> None:
    add_records(folder, Toy("timm:resnet18", ["robust"] * 40, mixing="foreign"))
    (board,) = rank(read(folder)).boards
    (place,) = [place for place in board.deciding(TENTH).places if place.record.model.name == "timm:resnet18"]
    assert (place.state, str(place.rank)) == ("unlisted", "1")


def test_the_strongest_attack_decides(folder: Path) -> None:
    add_records(folder, Toy(WEAK.name, ["robust"] * 4 + ["square@1/10"] * 36), attack="autoattack")
    (board,) = rank(read(folder)).boards
    assert [board.deciding(setting).first.attack.name for setting in (TENTH, TWENTIETH)] == ["autoattack"] * 2
    assert board.settings == (TENTH, TWENTIETH)


def test_two_sets_of_examples_are_ranked_apart_and_the_headlines_comes_first(folder: Path) -> None:
    show_half(folder, n=20)
    add_records(folder, Toy(WEAK.name, ["robust"] * 19 + ["wrong"]), grid=("1/10",), subset="half")
    leaderboard = rank(read(folder))
    (board,) = leaderboard.boards
    half = Setting(TENTH.threat_model, "half")
    assert board.settings == (half, TWENTIETH, TENTH)
    assert ranks(leaderboard, half) == {WEAK.name: "1"}
    assert ranks(leaderboard, TENTH) == {STRONG.name: "1", WEAK.name: "2-3", EQUAL.name: "2-3"}
    first, *others = rows_of(board, leaderboard)
    assert (first.record.dataset.n, first.attacked) == (20, {"pgd": first.place})
    assert {row.record.dataset.n for row in others} == {40}
    # One radius is no curve, so the area is that of the grid.
    assert first.curve is not None
    assert first.curve.places[0].record.dataset.n == 40


def test_a_curve_starts_at_the_clean_accuracy(folder: Path) -> None:
    (board,) = rank(read(folder)).boards
    curve = board.lines[0].curve((STRONG.name, STRONG.sha256))
    assert curve is not None
    assert (curve.complete, curve.eps, curve.rates) == (True, (0.0, 0.05, 0.1), (39 / 40, 35 / 40, 30 / 40))
    assert curve.area == pytest.approx((39 / 40 + 2 * 35 / 40 + 30 / 40) / 4)


def test_a_dataset_without_a_board_is_ranked_elsewhere(folder: Path) -> None:
    protocol = folder / "protocols" / "toy.toml"
    protocol.write_text(protocol.read_text().replace('dataset = "toy"', 'dataset = "other"'))
    leaderboard = rank(read(folder))
    assert (leaderboard.boards[0].lines, len(leaderboard.elsewhere)) == ((), 2)


def test_cards_know_how_a_model_was_trained(folder: Path) -> None:
    write_card(folder.parent / "model_zoo", "resnet_trained.toy", recipe="linf")
    cards = rank(read(folder)).cards
    assert cards["resnet_trained.toy"].stated.recipe == "linf"
    assert cards["resnet_trained.toy"].folder == "../model_zoo/resnet_trained.toy"
