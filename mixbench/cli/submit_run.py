"""What `mixbench submit` evaluates, and the evaluation itself."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mixbench.errors import InvalidInputError

if TYPE_CHECKING:
    from mixbench.datasets import Examples
    from mixbench.evaluation import Plan
    from mixbench.leaderboard.protocols import BoardProtocol
    from mixbench.models import LoadedModel
    from mixbench.submission import Result
    from mixbench.threat_model import ThreatModel

_INTERRUPTED = 130


def chosen_plans(
    loaded: "LoadedModel",
    examples: "Examples",
    attacks: str,
    threat_models: "Sequence[ThreatModel]",
    *,
    seed: int,
) -> "list[Plan]":
    """Return a plan for each of the `attacks`, names separated by commas."""
    from mixbench.attacks import attack_named, usual_engine
    from mixbench.evaluation import plan

    names = [name.strip() for name in attacks.split(",")]
    chosen = [attack_named(name, engine=usual_engine(name, threat_models[0].norm)) for name in names]
    return [plan(loaded, examples, attack, threat_models, seed=seed) for attack in chosen]


def read_board(path: Path, *, dataset: str) -> "BoardProtocol":
    """Return the protocol in `path`; raises InvalidInputError unless it is about one subset of `dataset`."""
    from mixbench.leaderboard.protocols import read_protocol

    protocol = read_protocol(path)
    subsets = sorted({evaluations.subset for evaluations in protocol.evaluations})
    if protocol.dataset != dataset or len(subsets) != 1:
        raise InvalidInputError(
            f"{path} is about {', '.join(subsets)} of {protocol.dataset}, expected one subset of {dataset}: give the"
            " protocol of its board, or --attack and --eps"
        )
    return protocol


def board_plans(loaded: "LoadedModel", examples: "Examples", protocol: "BoardProtocol") -> "list[Plan]":
    """Return a plan for each line of a board's protocol."""
    from mixbench.attacks import attack_named
    from mixbench.evaluation import plan

    return [
        plan(
            loaded,
            examples,
            attack_named(evaluations.attack, engine=evaluations.engine),
            evaluations.threat_models,
            seed=protocol.seed,
            block_size=protocol.block_size,
        )
        for evaluations in protocol.evaluations
    ]


class Evaluator:
    """Evaluates plans; what is finished is kept in `folder` until the submission is packed."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        self._device = device
        self._workspaces: list[Path] = []

    def results(self, plans: "list[Plan]") -> "list[Result]":
        """Return the results of all plans; ends the program with 130 where it is interrupted."""
        from mixbench.cli.eval import progress_bar
        from mixbench.evaluation import evaluate
        from mixbench.submission import Result

        results: list[Result] = []
        try:
            for run_plan in plans:
                workspace = self._folder / hashlib.sha256("".join(run_plan.record_ids).encode()).hexdigest()[:16]
                self._workspaces.append(workspace)
                with progress_bar() as progress:
                    evaluations = evaluate(run_plan, workspace=workspace, device=self._device, progress=progress)
                results.extend(Result.of(evaluation) for evaluation in evaluations)
        except KeyboardInterrupt:
            typer.echo(
                f"\ninterrupted; what was finished is kept in {self._folder}: run the same command again to go on",
                err=True,
            )
            raise typer.Exit(_INTERRUPTED) from None
        return results

    def clean_up(self) -> None:
        """Delete what was kept."""
        from mixbench.evaluation import remove_workspace

        for workspace in self._workspaces:
            remove_workspace(workspace)
        with suppress(OSError):  # other runs may be unfinished
            self._folder.rmdir()
