"""The boards as tables for programs, papers and code hosts: CSV, JSON, parquet, LaTeX and markdown."""

import csv
import io
import json
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixbench.leaderboard.board import Board, Leaderboard, Place, Ranking
from mixbench.leaderboard.numbers import (
    attack_title,
    command,
    interval_of,
    interval_text,
    percent,
    threat_model_text,
)
from mixbench.leaderboard.rows import Row, attacks_of, deciding_attack, rows_of
from mixbench.records import Accuracy, AttackIdentity, EvaluationRecord

Cell = str | int | float | None
ArrowType = Any  # pyarrow ships no types
ArrowArray = Any
RESULTS_FORMAT = "mixbench.leaderboard/1"
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: f"\\{character}" for character in "&%$#_{}"
}
_MARKDOWN = {character: f"\\{character}" for character in "\\`*_[]<>|#~!&"} | {"\n": " ", "\r": " "}
_COLUMNS = pa.schema(
    [(name, pa.string()) for name in ("board", "dataset", "split", "subset")]
    + [("n", pa.int64())]
    + [(name, pa.string()) for name in ("fingerprint", "model", "sha256", "mixing", "recipe", "state")]
    + [("filter_seed", pa.int64()), ("trained_parameters", pa.int64()), ("frozen_parameters", pa.int64())]
    + [(name, pa.string()) for name in ("attack", "attack_version", "implementation", "norm", "eps")]
    + [("eps_value", pa.float64()), ("protocol", pa.string()), ("clean_correct", pa.int64())]
    + [("robust_correct", pa.int64()), ("robust", pa.float64()), ("robust_low", pa.float64())]
    + [("robust_high", pa.float64()), ("rank_best", pa.int64()), ("rank_worst", pa.int64()), ("ranked", pa.int64())]
    + [("borderline", pa.int64()), ("forwards", pa.int64()), ("backwards", pa.int64()), ("seconds", pa.float64())]
    + [(name, pa.string()) for name in ("device", "started", "mixbench", "warnings", "record", "command")]
)


def result_rows(leaderboard: Leaderboard) -> list[dict[str, Cell]]:
    """Return a row a record, in the order of boards, rankings and ranks."""
    return [
        _result(name, ranking, place, leaderboard)
        for name, ranking in _named_rankings(leaderboard)
        for place in ranking.places
    ]


def _named_rankings(leaderboard: Leaderboard) -> Iterator[tuple[str, Ranking]]:
    """Yield every ranking with its board, which is empty for those of no board's protocol."""
    for board in leaderboard.boards:
        for line in board.lines:
            yield from ((board.name, ranking) for ranking in line.rankings)
        yield from (("", ranking) for ranking in board.others)
    yield from (("", ranking) for ranking in leaderboard.elsewhere)


def _result(board: str, ranking: Ranking, place: Place, leaderboard: Leaderboard) -> dict[str, Cell]:
    record, rank = place.record, place.rank
    model, data, interval = record.model, record.dataset, interval_of(record.robust)
    card = leaderboard.cards.get(model.name)
    values: tuple[Cell, ...] = (
        *(board, data.name, data.split, data.subset, data.n, data.fingerprint),
        *(model.name, model.sha256, model.mixing, None if card is None else card.stated.recipe, place.state),
        *(model.filter_seed, model.parameters.trained, model.parameters.frozen),
        *(record.attack.name, record.attack.version, record.attack.implementation, record.threat_model.norm.value),
        *(str(record.threat_model.eps), float(record.threat_model.eps), record.protocol.hash),
        *(record.clean.correct, record.robust.correct, record.robust.rate, interval.low, interval.high),
        *((None, None) if rank is None else (rank.best, rank.worst)),
        *(ranking.ranked, record.borderline, record.cost.forwards, record.cost.backwards, record.cost.seconds),
        *(record.provenance.device, record.provenance.started.isoformat(), record.provenance.mixbench),
        *("\n".join(record.warnings), record.id, command(record, leaderboard.cards)),
    )
    return dict(zip(_COLUMNS.names, values, strict=True))


def to_csv(rows: list[dict[str, Cell]]) -> bytes:
    """Return the rows as CSV with a header; what is not known is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: _inert(value) for name, value in row.items()} for row in rows])
    return buffer.getvalue().encode()


def _inert(value: Cell) -> Cell:
    """Keep spreadsheets from running a stranger's text as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def to_json(rows: list[dict[str, Cell]], leaderboard: Leaderboard) -> bytes:
    """Return the rows as JSON, with what had to be left out."""
    head = json.dumps({"format": RESULTS_FORMAT, "left_out": list(leaderboard.faults)}, ensure_ascii=False)
    # A line a row keeps a new record a line of a diff.
    lines = ",\n".join(map(json.JSONEncoder(ensure_ascii=False).encode, rows))
    return f'{head.removesuffix("}")}, "results": [\n{lines}\n]}}\n'.encode()


def to_parquet(rows: list[dict[str, Cell]]) -> bytes:
    """Return the rows as parquet."""
    buffer = io.BytesIO()
    arrays = [_arrow([row[field.name] for row in rows], field.type) for field in _COLUMNS]
    table = pa.Table.from_arrays(arrays, schema=_COLUMNS)
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _arrow(values: list[Cell], kind: ArrowType) -> ArrowArray:
    """Return values of one type, or None, as pyarrow has them; its own way from Python's lists imports pandas."""
    known = pa.py_buffer(
        np.packbits(np.array([value is not None for value in values], dtype=np.bool_), bitorder="little")
    )
    if kind != pa.string():
        numbers = np.array([0 if value is None else value for value in values], dtype=kind.to_pandas_dtype())
        return pa.Array.from_buffers(kind, len(values), [known, pa.py_buffer(numbers)])
    texts = [b"" if value is None else str(value).encode() for value in values]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    return pa.Array.from_buffers(kind, len(values), [known, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))])


def headline_rows(board: Board, leaderboard: Leaderboard) -> tuple[Row, ...]:
    """Return the rows of the setting that a board shows first."""
    rows = rows_of(board, leaderboard)
    return tuple(row for row in rows if row.setting == rows[0].setting)


def caption(board: Board, row: Row) -> str:
    """Return what a table of headline rows shows, in a sentence."""
    data = row.record.dataset
    return (
        f"{board.protocol.title}: {data.n:,} {data.split} images"
        f"{'' if data.subset == 'all' else f' ({data.subset})'}, {threat_model_text(row.setting.threat_model)}; ranked"
        f" by {deciding_attack(board, row.setting)}."
    )


def to_latex(board: Board, leaderboard: Leaderboard) -> bytes:
    """Return the headline table as a LaTeX table for the booktabs package."""
    rows = headline_rows(board, leaderboard)
    attacks = _attacks_met(rows, board)
    titles = [attack_title(attack) for attack in attacks.values()]
    lines = [
        "% Needs \\usepackage{booktabs}. Accuracies in percent; 95\\% Wilson intervals in brackets.",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_latex(caption(board, rows[0]))}}}",
        f"\\begin{{tabular}}{{llll{'r' * (1 + len(titles))}}}",
        "\\toprule",
        " & ".join(["Rank", "Model", "Mixing", "Recipe", "Clean", *map(_latex, titles)]) + " \\\\",
        "\\midrule",
    ]
    for row in rows:
        model = row.record.model
        name = model.name + ("" if row.place.state != "stale" else " (stale)")
        texts = [str(row.place.rank or "--").replace("-", "--"), name, model.mixing, row.recipe or "--"]
        cells = [_latex_accuracy(row.record.clean), *(_latex_place(row.attacked[attack]) for attack in attacks)]
        lines.append(" & ".join([*map(_latex, texts), *cells]) + " \\\\")
    return ("\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]) + "\n").encode()


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text.replace("\n", " "))


def _latex_place(place: Place | None) -> str:
    return "--" if place is None else _latex_accuracy(place.record.robust)


def _latex_accuracy(accuracy: Accuracy) -> str:
    interval = interval_of(accuracy)
    return f"{percent(accuracy.rate)} [{percent(interval.low)}, {percent(interval.high)}]"


def as_markdown(text: str) -> str:
    """Return `text` so that a code host shows it as it is."""
    return "".join(_MARKDOWN.get(character, character) for character in text)


def markdown_table(rows: tuple[Row, ...], board: Board) -> str:
    """Return rows as a markdown table; an attack that none of them met has no column."""
    attacks = _attacks_met(rows, board)
    titles = [attack_title(attack) for attack in attacks.values()]
    head = ["rank", "model", "mixing", "recipe", "clean", *titles, "trained", "frozen"]
    lines: list[list[str]] = []
    for row in rows:
        model = row.record.model
        name = as_markdown(model.name) + (" (stale)" if row.place.state == "stale" else "")
        cells = [str(row.place.rank or "-"), name, model.mixing, as_markdown(row.recipe or "-")]
        cells += [_markdown_accuracy(row.record.clean), *(_markdown_place(row.attacked[attack]) for attack in attacks)]
        lines.append([*cells, f"{model.parameters.trained:,}", f"{model.parameters.frozen:,}"])
    return markdown_grid(head, lines, words=("rank", "model", "mixing", "recipe"))


def markdown_grid(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: Container[str]) -> str:
    """Return a markdown table of cells that are markdown already; the columns but for `words` align as numbers do."""
    rule = ["---" if title in words else "---:" for title in head]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *rows))


def _attacks_met(rows: tuple[Row, ...], board: Board) -> dict[str, AttackIdentity]:
    return {
        name: attack
        for name, attack in attacks_of(board).items()
        if any(row.attacked[name] is not None for row in rows)
    }


def _markdown_place(place: Place | None) -> str:
    return "-" if place is None else _markdown_accuracy(place.record.robust)


def _markdown_accuracy(accuracy: Accuracy) -> str:
    return f"{percent(accuracy.rate)} ({interval_text(accuracy)})"


def markdown_places(ranking: Ranking) -> str:
    """Return one ranking as a markdown table."""
    lines: list[list[str]] = []
    for place in ranking.places:
        record: EvaluationRecord = place.record
        cells = [str(place.rank or "-"), as_markdown(record.model.name), _markdown_accuracy(record.clean)]
        lines.append([*cells, _markdown_accuracy(record.robust), f"[record](records/{record.id}/record.json)"])
    return markdown_grid(["rank", "model", "clean", "robust", "record"], lines, words=("rank", "model", "record"))
