"""What the runs of a sweep came to, and how it spreads over their seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from mixbench.errors import RecordError
from mixbench.models import CheckpointCard
from mixbench.records import Accuracy, EvaluationRecord
from mixbench.statistics import CrossedSpread, crossed_spread
from mixbench.sweep.grid import SweepEvaluation, SweepValue
from mixbench.threat_model import Norm
from mixbench.training import TrainingRun

RESULTS = "results"
RECORDS = "records"
_LEAST_CROSSED = 2


class SweepResult(SweepValue):
    """What one run of a sweep came to.

    Attributes:
        name: Of the checkpoint.
        card: The checkpoint's card, with its clean accuracy on the whole test split.
        records: The ids of its evaluation records in the sweep's store.
        evaluation: What was asked for; None in results of versions that did not say.
    """

    format: Literal["mixbench.sweep_result/1"] = "mixbench.sweep_result/1"
    name: str
    model: str
    card: CheckpointCard
    records: tuple[str, ...]
    evaluation: tuple[SweepEvaluation, ...] | None = None


def results(output: Path) -> tuple[SweepResult, ...]:
    """Return the results below `output`, in order of name; raises RecordError for the first that cannot be read."""
    return tuple(_read_result(path) for path in sorted((output / RESULTS).glob("*.json")))


def _read_result(path: Path) -> SweepResult:
    try:
        result = SweepResult.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RecordError(f"{path} is not a sweep's result ({type(error).__name__}): delete it") from None
    if result.name != path.stem:
        raise RecordError(f"{path} is the result of {result.name}: give it its own name, or delete it")
    return result


def other_run(model: str, card: CheckpointCard, run: TrainingRun) -> str:
    """Return how a checkpoint's `model` and `card` differ from what `run` makes; nothing where they do not."""
    found = (model, card.dataset, card.recipe, card.seed, card.filter_seed, card.epochs)
    wanted = (run.model, run.dataset, run.recipe, run.seed, run.filter_seed, run.resolved_recipe().epochs)
    return "" if found == wanted else f"{', '.join(map(str, found))}, expected {', '.join(map(str, wanted))}"


@dataclass(frozen=True)
class Column:
    """What is compared over seeds: clean accuracy, or robust accuracy under one attack and threat model."""

    title: str
    accuracies: tuple[tuple[SweepResult, Accuracy], ...]


def columns(found: Sequence[SweepResult], records: Sequence[EvaluationRecord]) -> tuple[Column, ...]:
    """Return the accuracies that `found` has, clean first, then by attack and radius.

    Raises RecordError for a result one of whose records is not in `records`: a mean must not leave out a run unseen.
    """
    by_id = {record.id: record for record in records}
    attacked: dict[tuple[str, Norm, Fraction], list[tuple[SweepResult, Accuracy]]] = {}
    for result in found:
        for name in result.records:
            if name not in by_id:
                raise RecordError(
                    f"the result of {result.name} names the record {name}, which is not there: delete the result, and"
                    " run the same command again"
                )
            record = by_id[name]
            key = (record.attack.name, record.threat_model.norm, record.threat_model.eps)
            attacked.setdefault(key, []).append((result, record.robust))
    clean = Column("clean", tuple((result, result.card.clean) for result in found))
    return clean, *(
        Column(f"{attack} {norm.value} {eps}", tuple(accuracies))
        for (attack, norm, eps), accuracies in sorted(attacked.items(), key=lambda item: item[0])
    )


def seed_spread(found: Sequence[SweepResult]) -> CrossedSpread | None:
    """Return how the clean accuracy of one model and recipe spreads over filter draws (rows) and training seeds.

    None unless all draws and seeds are crossed, at least two of each.
    """
    rates = {(result.card.filter_seed, result.card.seed): result.card.clean.rate for result in found}
    rows, seeds = (sorted({pair[axis] for pair in rates}) for axis in (0, 1))
    if min(len(rows), len(seeds)) < _LEAST_CROSSED or len(rates) < len(rows) * len(seeds):
        return None
    return crossed_spread(np.array([[rates[row, seed] for seed in seeds] for row in rows]))
