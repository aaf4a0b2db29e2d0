import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixbench.errors import RecordError
from mixbench.leaderboard import build, rank, read, render
from mixbench.leaderboard.markdown_page import BEGIN, END, with_headline
from mixbench.records import EvaluationRecord
from tests.conftest import ROOT
from tests.leaderboard.conftest import STRONG

COMMITTED = ROOT / "leaderboards"
_LIBRARY = re.compile(rb"script-src '[^']*'|<script type=\"module\">.*?</script>|itables [0-9.]+", re.DOTALL)


@pytest.fixture(scope="module")
def fresh() -> dict[str, bytes]:
    """What a build of the committed records gives."""
    return render(rank(read(COMMITTED)))


def test_the_committed_records_are_all_trusted() -> None:
    contents = read(COMMITTED)
    assert contents.faults == ()
    assert len(contents.verdicts) + len(contents.probes) == len(list(COMMITTED.glob("records/*")))


@pytest.mark.parametrize("name", ["README.md", "index.html", "results.csv", "results.json", "digits.tex"])
def test_the_committed_pages_are_those_of_the_committed_records(fresh: dict[str, bytes], name: str) -> None:
    # Another version of the table library is no difference between the pages.
    written, made = (_LIBRARY.sub(b"", page) for page in ((COMMITTED / name).read_bytes(), fresh[name]))
    assert written == made, "run mixbench leaderboard build"


def test_the_committed_parquet_holds_the_committed_records(fresh: dict[str, bytes]) -> None:
    # The bytes depend on the version of pyarrow.
    made = pq.read_table(pa.BufferReader(fresh["results.parquet"]))
    assert pq.read_table(COMMITTED / "results.parquet").equals(made), "run mixbench leaderboard build"


def test_no_generated_file_is_left_over_or_missing(fresh: dict[str, bytes]) -> None:
    generated = {path.name for path in COMMITTED.iterdir() if path.is_file() and path.suffix != ".toml"}
    assert generated == set(fresh)


def test_the_readme_shows_the_committed_records() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert BEGIN in text
    assert with_headline(text, rank(read(COMMITTED))) == text, "run mixbench leaderboard build"


def test_per_example_files_stay_small() -> None:
    records = COMMITTED.glob("records/*/record.json")
    bytes_by_n = [
        (
            EvaluationRecord.from_json(path.read_text(encoding="utf-8"), source=str(path)).dataset.n,
            path.with_name("examples.parquet").stat().st_size,
        )
        for path in records
    ]
    assert max(size for n, size in bytes_by_n if n <= 1000) < 60_000
    assert max(size / n for n, size in bytes_by_n if n > 1000) < 20
    # A probe's has three permutations of a whole test set.
    assert max(path.stat().st_size for path in COMMITTED.glob("records/*/examples.parquet")) < 250_000


def test_the_same_records_give_the_same_bytes(folder: Path) -> None:
    assert render(rank(read(folder))) == render(rank(read(folder)))


def test_a_build_writes_what_differs_and_no_more(folder: Path) -> None:
    (folder.parent / "README.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    first, second = build(folder), build(folder)
    assert (first.changed, first.records, second.changed) == (len(first.files) + 1, 6, 0)
    readme = (folder.parent / "README.md").read_text()
    assert readme.startswith(f"before\n{BEGIN}\n")
    assert readme.endswith(f"{END}\nafter\n")
    assert "old" not in readme
    assert STRONG.name.replace("_", "\\_") in readme


def test_a_readme_without_markers_stays_as_it_is(folder: Path) -> None:
    assert with_headline("text", rank(read(folder))) == "text"


@pytest.mark.parametrize("text", [BEGIN, END, f"{END}{BEGIN}"])
def test_half_a_pair_of_markers_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(RecordError, match="without the other"):
        with_headline(text, rank(read(folder)))


def test_a_board_without_records_says_so(folder: Path) -> None:
    for path in folder.glob("records/*/*"):
        path.unlink()
    for path in folder.glob("records/*"):
        path.rmdir()
    files = render(rank(read(folder)))
    assert b"No checkpoint has been evaluated yet" in files["README.md"]
    assert b"No checkpoint has been evaluated yet" in files["index.html"]
