"""Leaderboards: stored records in, ranked boards and the files that show them out. Nothing here imports torch.

::

    contents = read(Path("leaderboards"))     # records, protocols, cards, and what had to be left out and why
    boards = rank(contents)                   # pure: a board for each protocol
    files = render(boards)                    # pure: relative path to bytes, the same bytes for the same records
    write(Path("leaderboards"), boards, files)  # and the README beside the folder, between its markers

`build(folder)` does all four and returns what was left out; `mixbench accept` and `mixbench leaderboard build` call it.
The folder holds `records/` (a mixbench.store.Store, the truth), `protocols/<board>.toml` and `submissions/<name>/`; the
checkpoints, whose hashes tell a stale record, lie in `model_zoo/` beside it.
"""

from mixbench.leaderboard.board import Board, Leaderboard, Ranking, rank
from mixbench.leaderboard.build import Built, build, render, write
from mixbench.leaderboard.reading import Contents, read

__all__ = ["Board", "Built", "Contents", "Leaderboard", "Ranking", "build", "rank", "read", "render", "write"]
