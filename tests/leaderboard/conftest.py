"""A small board: two models on 40 examples, one far ahead of the other."""

from pathlib import Path

import pytest

from tests.leaderboard.boards_for_tests import Toy, add_records, write_card, write_protocol

STRONG = Toy(
    "convmixer_trained.toy", ["robust"] * 30 + ["pgd@1/10"] * 5 + ["pgd@1/20"] * 4 + ["wrong"], mixing="trained"
)
WEAK = Toy("convmixer_frozen.toy", ["robust"] * 5 + ["pgd@1/10"] * 20 + ["pgd@1/20"] * 14 + ["wrong"])
EQUAL = Toy("resnet_frozen.toy", ["pgd@1/10"] * 2 + ["robust"] * 5 + ["pgd@1/10"] * 18 + ["pgd@1/20"] * 14 + ["wrong"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of leaderboards with the toy board, three models under PGD and their cards."""
    leaderboards = tmp_path / "leaderboards"
    write_protocol(leaderboards, n=40)
    for toy in (STRONG, WEAK, EQUAL):
        add_records(leaderboards, toy)
        write_card(tmp_path / "model_zoo", toy.name)
    return leaderboards
