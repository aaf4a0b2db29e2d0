"""Sweeps: grids of models, recipes and seeds, trained and evaluated in one go over all devices of a host.

A sweep is what a claim about training is tested with. Each run leaves one result file; what exists is skipped, so the
same command goes on after a crash and extends a sweep whose file has grown.
"""

from mixbench.sweep.grid import Grid, Sweep, SweepEvaluation, read_sweep
from mixbench.sweep.results import RECORDS, RESULTS, Column, SweepResult, columns, results, seed_spread
from mixbench.sweep.run import SweepCallback, SweepProgress, run_sweep

__all__ = [
    "RECORDS",
    "RESULTS",
    "Column",
    "Grid",
    "Sweep",
    "SweepCallback",
    "SweepEvaluation",
    "SweepProgress",
    "SweepResult",
    "columns",
    "read_sweep",
    "results",
    "run_sweep",
    "seed_spread",
]
