from pathlib import Path

import pytest

from mixbench.datasets import CATALOGUE
from mixbench.errors import RecordError
from mixbench.leaderboard.protocols import read_protocol, read_protocols
from tests.conftest import ROOT
from tests.leaderboard.boards_for_tests import FINGERPRINT, PROTOCOL

BOARDS = sorted((ROOT / "leaderboards" / "protocols").glob("*.toml"))


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_board_evaluates_the_data_of_the_catalogue(path: Path) -> None:
    protocol, spec = read_protocol(path), CATALOGUE[path.stem]
    assert (protocol.dataset, protocol.title) == (spec.name, spec.title)
    assert protocol.headline.threat_model == spec.default_threat_model
    for name, subset in protocol.subsets.items():
        known = spec.splits[protocol.split] if name == "all" else spec.subsets[name]
        assert (subset.n, subset.fingerprint) == (known.n, known.fingerprint)


@pytest.mark.parametrize(
    ("before", "after", "fragment"),
    [
        ("title =", "title", "TOML"),
        ('title = "Toy"', "", "title: Field required"),
        ("seed = 7", "seed = 7\nsede = 8", "sede"),
        ('eps = ["1/20", "1/10"]', 'eps = ["1/10", "1/20"]', "ascending"),
        ('eps = ["1/20", "1/10"]', 'eps = ["0.1"]', "1/10"),
        ('subset = "all"', 'subset = "half"', "half"),
        ('"Linf 1/10"', '"Linf 1/3"', "Linf 1/3 on 'all' is not evaluated"),
        ('"Linf 1/10"', '"Linf ten"', "ten"),
        ('1/10", subset = "all"', '1/10", subset = "half"', "on 'half' is not evaluated"),
        (FINGERPRINT, "abc", "fingerprint"),
    ],
)
def test_a_faulty_protocol_is_refused_by_name(tmp_path: Path, before: str, after: str, fragment: str) -> None:
    text = PROTOCOL.format(n=3, fingerprint=FINGERPRINT)
    assert before in text
    path = tmp_path / "toy.toml"
    path.write_text(text.replace(before, after))
    with pytest.raises(RecordError, match=f"toy.toml.*{fragment}"):
        read_protocol(path)


def test_a_folder_without_protocols_is_no_folder_of_leaderboards(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"protocols/\*\.toml; give it with --folder"):
        read_protocols(tmp_path)
