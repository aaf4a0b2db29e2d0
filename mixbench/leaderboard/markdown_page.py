"""The leaderboards as README.md, for a code host, and the headline table for the project's own README."""

from mixbench.errors import RecordError
from mixbench.leaderboard.board import Board, Leaderboard, Ranking
from mixbench.leaderboard.exports import as_markdown, caption, headline_rows, markdown_places, markdown_table
from mixbench.leaderboard.numbers import attack_title, threat_model_text
from mixbench.leaderboard.rows import rows_of

BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"
_HOW_TO_READ = (
    "Accuracies are in percent with 95% Wilson intervals; robust accuracy counts the examples that are right both clean"
    " and attacked. A rank is a range where exact McNemar tests on the same examples, adjusted by Holm's rule at 5%, do"
    " not tell the models apart."
)

_FILES = (
    "Rankings hold records of one protocol hash alone. [index.html](index.html) sorts, filters, draws and compares;"
    " [results.csv](results.csv), [results.json](results.json) and [results.parquet](results.parquet) hold every"
    " number. All of these are generated from `records/` by `mixbench leaderboard build`: do not edit them."
)


def markdown_page(leaderboard: Leaderboard) -> str:
    """Return the page of all boards."""
    parts = ["# Leaderboards\n", f"{_HOW_TO_READ} {_FILES}\n"]
    for board in leaderboard.boards:
        parts += _board(board, leaderboard)
    if leaderboard.elsewhere:
        parts.append("## Other datasets\n")
        parts += [_other(ranking) for ranking in leaderboard.elsewhere]
    if leaderboard.faults:
        parts.append("## Left out\n")
        parts.append("\n".join(f"- {as_markdown(fault)}" for fault in leaderboard.faults) + "\n")
    return "\n".join(parts)


def _board(board: Board, leaderboard: Leaderboard) -> list[str]:
    parts = [f"## {as_markdown(board.protocol.title)}\n"]
    if not board.lines:
        return [*parts, "No checkpoint has been evaluated yet.\n"]
    rows = rows_of(board, leaderboard)
    for threat_model in board.threat_models:
        chosen = tuple(row for row in rows if row.threat_model == threat_model)
        parts += [f"### {threat_model_text(threat_model)}\n", f"{caption(board, chosen[0])}\n"]
        parts.append(markdown_table(chosen, board))
    if board.others:
        parts.append(f"### {as_markdown(board.protocol.title)} under other protocols\n")
        parts += [_other(ranking) for ranking in board.others]
    return parts


def _other(ranking: Ranking) -> str:
    first = ranking.first
    title = (
        f"{first.dataset.name}, {first.dataset.subset}, {first.dataset.n} {first.dataset.split} images;"
        f" {attack_title(first.attack)} ({first.attack.implementation}), {threat_model_text(ranking.threat_model)};"
        f" protocol {first.protocol.hash[:10]}"
    )
    return f"{as_markdown(title)}\n\n{markdown_places(ranking)}"


def headline(leaderboard: Leaderboard) -> str:
    """Return the table for the project's README: every board's headline."""
    parts: list[str] = []
    for board in leaderboard.boards:
        if board.lines:
            rows = headline_rows(board, leaderboard)
            parts += [f"{caption(board, rows[0])}\n", markdown_table(rows, board)]
    return "\n".join([*parts, f"{_HOW_TO_READ}\n"]) if parts else "No checkpoint has been evaluated yet.\n"


def with_headline(text: str, leaderboard: Leaderboard) -> str:
    """Return a README with its headline table, between the two markers, made anew; without markers, as it is."""
    if BEGIN not in text and END not in text:
        return text
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RecordError(f"README.md has one of {BEGIN} and {END} without the other: put both around the table")
    return f"{before}{BEGIN}\n{headline(leaderboard)}{END}{after}"
