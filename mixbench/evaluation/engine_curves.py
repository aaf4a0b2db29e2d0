"""The picture of what both engines cost."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mixbench.evaluation.engine_benchmark import EngineComparison
from mixbench.files import storage_error


def draw_engine_times(path: Path, results: Sequence[EngineComparison], *, title: str) -> None:
    """Draw seconds against the number of examples for both engines into `path`; raises RecordError if it cannot."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(results, key=lambda result: result.fast.record.dataset.n)
    counts = [result.fast.record.dataset.n for result in ordered]
    reference = ordered[0].best.record.attack.implementation
    axes.plot(counts, [result.best.seconds for result in ordered], marker="s", label=f"reference ({reference})")
    axes.plot(counts, [result.fast.seconds for result in ordered], marker="o", label="fast engine")
    axes.set(xlabel="examples", ylabel="seconds", title=title, ylim=(0, None), xlim=(0, None))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="upper left")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise storage_error(path, error) from error
