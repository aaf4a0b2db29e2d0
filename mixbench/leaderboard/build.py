"""From the folder of leaderboards to the files that show it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mixbench.files import write_atomically
from mixbench.leaderboard.board import Leaderboard, rank
from mixbench.leaderboard.exports import result_rows, to_csv, to_json, to_latex, to_parquet
from mixbench.leaderboard.markdown_page import markdown_page, with_headline
from mixbench.leaderboard.page import html_page
from mixbench.leaderboard.reading import read

_PROJECT_README = "README.md"


@dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
        files: What was generated, relative to the folder of leaderboards.
        changed: How many of them were not there before, or not the same.
        records: How many records they show.
        faults: What was left out and why, a sentence each.
    """

    files: tuple[str, ...]
    changed: int
    records: int
    faults: tuple[str, ...]


def render(leaderboard: Leaderboard) -> dict[str, bytes]:
    """Return the generated files by path relative to the folder of leaderboards: pure, the same bytes each time."""
    rows = result_rows(leaderboard)
    files = {
        "README.md": markdown_page(leaderboard).encode(),
        "index.html": html_page(leaderboard).encode(),
        "results.csv": to_csv(rows),
        "results.json": to_json(rows, leaderboard),
        "results.parquet": to_parquet(rows),
    }
    tables = {f"{board.name}.tex": to_latex(board, leaderboard) for board in leaderboard.boards if board.lines}
    return files | tables


def write(folder: Path, leaderboard: Leaderboard, files: Mapping[str, bytes]) -> int:
    """Write what differs and return how much that was; the README beside `folder` gets the headline table too."""
    paths = {folder / name: content for name, content in files.items()}
    readme = folder.resolve().parent / _PROJECT_README
    if readme.is_file():
        paths[readme] = with_headline(readme.read_text(encoding="utf-8"), leaderboard).encode()
    differing = {path: content for path, content in paths.items() if not path.is_file() or path.read_bytes() != content}
    for path, content in differing.items():
        write_atomically(path, content)
    return len(differing)


def build(folder: Path) -> Built:
    """Read the folder of leaderboards, rank its records and write its pages.

    Raises RecordError if the folder has no readable protocols or cannot be written; records that cannot be trusted are
    left out and named in the result.
    """
    leaderboard = rank(read(folder))
    files = render(leaderboard)
    changed = write(folder, leaderboard, files)
    records = sum(len(ranking.places) for ranking in leaderboard.rankings)
    return Built(tuple(sorted(files)), changed, records, leaderboard.faults)
