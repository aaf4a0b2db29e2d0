"""The leaderboards as README.md, for a code host, and the headline table for the project's own README."""

from mixbench.errors import RecordError
from mixbench.leaderboard.board import Board, Leaderboard, Ranking
from mixbench.leaderboard.exports import (
    as_markdown,
    caption,
    headline_rows,
    markdown_grid,
    markdown_places,
    markdown_table,
)
from mixbench.leaderboard.numbers import attack_title, percent, threat_model_text
from mixbench.leaderboard.probes import (
    Decoding,
    Score,
    accuracy_by_tile,
    baselines_text,
    decoder_text,
    score,
    tile_text,
)
from mixbench.leaderboard.rows import rows_of, setting_text
from mixbench.probe_record import ProbeRecord

BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"
_HOW_TO_READ = (
    "Accuracies are in percent with 95% Wilson intervals; robust accuracy counts the examples that are right both clean"
    " and attacked. A rank is a range where exact McNemar tests on the same examples, adjusted by Holm's rule at 5%, do"
    " not tell the models apart. A dash is an evaluation that was not made."
)

_DECODING = (
    "A decoder of each mixing was trained to give back images whose pixels one fixed permutation had moved; PSNR in dB."
    " In brackets stands the range over permutations, or for one permutation the 95% interval over images."
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
    if leaderboard.decodings:
        parts += ["## Decoding shuffled pixels\n", f"{_DECODING}\n"]
        parts += [_decoding(decoding) for decoding in leaderboard.decodings]
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
    for setting in board.settings:
        chosen = tuple(row for row in rows if row.setting == setting)
        parts += [f"### {setting_text(board, setting)}\n", f"{caption(board, chosen[0])}\n"]
        parts.append(markdown_table(chosen, board))
    parts += _recognition(board, leaderboard)
    if board.others:
        parts.append(f"### {as_markdown(board.protocol.title)} under other protocols\n")
        parts += [_other(ranking) for ranking in board.others]
    return parts


def _recognition(board: Board, leaderboard: Leaderboard) -> list[str]:
    """Return the table of what the models of a board recognise as pixels are shuffled."""
    dataset = board.protocol.dataset
    records = [
        leaderboard.recognitions[dataset, *key] for key in board.models if (dataset, *key) in leaderboard.recognitions
    ]
    if not records:
        return []
    sides = [side for side, _ in accuracy_by_tile(records[0])]
    first = records[0].dataset
    about = (
        f"Accuracy on {first.n:,} {first.split} images whose pixels were shuffled within tiles of growing size; its"
        " mean from none to the whole image with a 95% interval, and that over a growing share of shuffled pixels."
    )
    head = ["model", *(tile_text(side) for side in sides), "mean", "mean by share", "record"]
    lines: list[list[str]] = []
    for record in records:
        rates = dict(accuracy_by_tile(record))
        cells = [percent(rates[side]) if side in rates else "-" for side in sides]
        cells += [_percents(score(record, "model", metric)) for metric in ("area_by_tile", "area_by_fraction")]
        lines.append(_probe_line(record, cells))
    title = f"### {as_markdown(board.protocol.title)} with shuffled pixels\n"
    return [title, f"{about}\n", markdown_grid(head, lines, words=("model", "record"))]


def _probe_line(record: ProbeRecord, cells: list[str]) -> list[str]:
    """Return `cells` between the name of the model and a link to the record."""
    return [as_markdown(record.model.name), *cells, f"[record](records/{record.id}/probe.json)"]


def _percents(found: Score | None) -> str:
    return "-" if found is None else f"{percent(found.value)} ({percent(found.low)} to {percent(found.high)})"


def _decoding(decoding: Decoding) -> str:
    first = decoding.first
    about = (
        f"{as_markdown(first.dataset.name)}, {first.dataset.n:,} {first.dataset.split} images;"
        f" {as_markdown(decoder_text(first))}; permutations {', '.join(map(str, first.protocol.permutation_seeds))};"
        f" {baselines_text(first)}."
    )
    head = ["decoder", "PSNR", "SSIM", "circular padding", "on noise", "record"]
    columns = (("decoder", "psnr", 1), ("decoder", "ssim", 3), ("circular", "psnr", 1), ("decoder_on_noise", "psnr", 1))
    lines = [
        _probe_line(record, [_decimals(score(record, subject, metric), places) for subject, metric, places in columns])
        for record in decoding.records
    ]
    picture = "" if decoding.picture is None else f"\n![Truth, shuffled and decoded images]({decoding.picture})\n"
    return f"{about}\n\n{markdown_grid(head, lines, words=('decoder', 'record'))}{picture}"


def _decimals(found: Score | None, places: int) -> str:
    return "-" if found is None else f"{found.value:.{places}f} ({found.low:.{places}f} to {found.high:.{places}f})"


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
