import csv
import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixbench.leaderboard import Leaderboard, rank, read, render
from mixbench.leaderboard.exports import as_markdown, result_rows, to_csv, to_json, to_latex, to_parquet
from mixbench.statistics import wilson_interval
from tests.leaderboard.boards_for_tests import Toy, add_records
from tests.leaderboard.conftest import WEAK


@pytest.fixture
def leaderboard(folder: Path) -> Leaderboard:
    """The toy board with a stale and a hostile model."""
    add_records(folder, Toy("convmixer_trained.toy", ["robust"] * 40, sha256="b" * 64))
    add_records(folder, Toy("=cmd|'x'!A1_&%$#{}|<b>", ["robust"] * 40, warnings=("a\nb",)))
    return rank(read(folder))


def test_every_table_holds_the_same_numbers(leaderboard: Leaderboard) -> None:
    rows = result_rows(leaderboard)
    assert len(rows) == 10
    assert pq.read_table(pa.BufferReader(to_parquet(rows))).to_pylist() == rows
    assert json.loads(to_json(rows, leaderboard))["results"] == rows
    told = list(csv.DictReader(io.StringIO(to_csv(rows).decode(), newline="")))
    for row, text in zip(rows, told, strict=True):
        for name, value in row.items():
            expected = "" if value is None else str(value)
            assert text[name] in {expected, f"'{expected}"}


def test_a_row_says_what_its_record_says(leaderboard: Leaderboard) -> None:
    row = next(r for r in result_rows(leaderboard) if r["model"] == "convmixer_frozen.toy" and r["eps"] == "1/10")
    interval = wilson_interval(5, 40)
    assert (row["robust_correct"], row["robust"], row["n"]) == (5, 5 / 40, 40)
    assert (row["robust_low"], row["robust_high"]) == (interval.low, interval.high)
    assert (row["board"], row["state"], row["recipe"], row["ranked"]) == ("toy", "current", "standard", 4)


def test_a_stale_record_has_no_rank(leaderboard: Leaderboard) -> None:
    stale = [row for row in result_rows(leaderboard) if row["state"] == "stale"]
    assert [(row["rank_best"], row["rank_worst"]) for row in stale] == [(None, None)] * 2


def test_a_spreadsheet_does_not_run_a_name(leaderboard: Leaderboard) -> None:
    assert b",'=cmd|" in to_csv(result_rows(leaderboard))


def test_latex_shows_names_as_they_are(leaderboard: Leaderboard) -> None:
    text = to_latex(leaderboard.boards[0], leaderboard).decode()
    assert r"=cmd|'x'!A1\_\&\%\$\#\{\}|<b>" in text
    assert "convmixer\\_trained.toy (stale)" in text
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    table = text.partition("\\toprule")[2].partition("\\bottomrule")[0]
    rows = [line for line in table.splitlines() if line.endswith("\\\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {len(columns[1]) - 1}


def test_markdown_shows_names_as_they_are() -> None:
    assert as_markdown("<b>|a_b*[x](y)") == r"\<b\>\|a\_b\*\[x\](y)"


def test_an_attack_that_no_model_met_has_no_column(folder: Path) -> None:
    add_records(folder, Toy(WEAK.name, ["robust"] * 39 + ["wrong"]), attack="autoattack", grid=("1/20",))
    page = render(rank(read(folder)))["README.md"].decode()
    at_tenth, at_twentieth = re.findall(r"\| rank \| model .*", page)
    assert "| PGD-20 | AutoAttack |" in at_twentieth
    assert "| PGD-20 | trained |" in at_tenth


def test_a_name_cannot_break_a_markdown_table(leaderboard: Leaderboard) -> None:
    page = render(leaderboard)["README.md"].decode()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    assert len(set(cells)) == 1
    assert "<b>" not in page.replace(r"\<b\>", "")
