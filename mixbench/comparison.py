"""Two evaluations of the same examples under the same protocol, compared example by example."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Bool

from mixbench.errors import RecordError
from mixbench.paired_difference import exact_difference_interval
from mixbench.records import AttackIdentity, DatasetIdentity, ThreatModelField
from mixbench.records import Protocol as EvaluationProtocol
from mixbench.statistics import Interval, mcnemar_p
from mixbench.store import StoredEvaluation

Outcome = Literal["clean", "robust"]
CLEAN = "clean"
"""What lost an example that is misclassified without attack, beside the names of the attack's stages."""


class Evaluated(Protocol):
    """What decides whether two evaluations may be compared; a record says it, and so does a plan of one."""

    @property
    def id(self) -> str: ...  # noqa: D102 - as in a record
    @property
    def dataset(self) -> DatasetIdentity: ...  # noqa: D102
    @property
    def attack(self) -> AttackIdentity: ...  # noqa: D102
    @property
    def threat_model(self) -> ThreatModelField: ...  # noqa: D102
    @property
    def protocol(self) -> EvaluationProtocol: ...  # noqa: D102


@dataclass(frozen=True)
class PairedComparison:
    """How two models do on the same examples.

    An example is right if it is classified correctly ("clean"), or correctly and broken by no attack ("robust").

    Attributes:
        only_first: Examples right for the first model alone; `only_second`, `both` and `neither` likewise.
        first_lost_to: What cost the first model the `only_second` examples: "clean" where it is wrong without attack,
            else the stage that broke it, with a count for each stage of the attack.
        second_lost_to: The same for the second model and the `only_first` examples.
    """

    outcome: Outcome
    both: int
    only_first: int
    only_second: int
    neither: int
    first_lost_to: Mapping[str, int]
    second_lost_to: Mapping[str, int]

    @property
    def n(self) -> int:
        """How many examples were compared."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the first model less that of the second, in [-1, 1]."""
        return (self.only_first - self.only_second) / self.n

    @cached_property
    def interval(self) -> Interval:
        """The exact 95% interval of `difference`."""
        return exact_difference_interval(self.only_first, self.only_second, self.n)

    @property
    def p(self) -> float:
        """The exact two-sided McNemar p-value of no difference."""
        return mcnemar_p(self.only_first, self.only_second)


def compare(first: StoredEvaluation, second: StoredEvaluation, *, outcome: Outcome) -> PairedComparison:
    """Return the comparison of two evaluations; raises RecordError if they differ in examples or protocol."""
    check_comparable(first.record, second.record)
    for column in ("index", "label"):
        if not np.array_equal(first.table[column].to_numpy(), second.table[column].to_numpy()):
            raise RecordError(
                f"the tables in {first.folder} and {second.folder} differ in {column} though their fingerprints agree:"
                " one was edited, evaluate again with --overwrite"
            )
    right, other = _right(first.table, outcome), _right(second.table, outcome)
    stages = (CLEAN, *first.record.broken_by) if outcome == "robust" else (CLEAN,)
    return PairedComparison(
        outcome=outcome,
        both=int((right & other).sum()),
        only_first=int((right & ~other).sum()),
        only_second=int((other & ~right).sum()),
        neither=int((~right & ~other).sum()),
        first_lost_to=_lost_to(first.table.loc[other & ~right], stages),
        second_lost_to=_lost_to(second.table.loc[right & ~other], stages),
    )


def check_comparable(first: Evaluated, second: Evaluated) -> None:
    """Raise RecordError naming the first thing that forbids comparing two evaluations: other examples or protocol."""
    if first.protocol.hash == second.protocol.hash:
        return
    told, other = _protocol_fields(first), _protocol_fields(second)
    name = next(name for name in told if told[name] != other[name])
    raise RecordError(
        f"{first.id} and {second.id} cannot be compared: their {name} is {told[name]!r} and {other[name]!r}; evaluate"
        " both the same way"
    )


def _protocol_fields(record: Evaluated) -> dict[str, object]:
    """Return by name all that the protocol hash is made of."""
    dataset, attack, protocol = record.dataset, record.attack, record.protocol
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        "subset": dataset.subset,
        "number of examples": dataset.n,
        "dataset fingerprint": dataset.fingerprint,
        "attack": f"{attack.name} {attack.version}",
        "attack implementation": attack.implementation,
        "attack parameters": attack.parameters,
        "threat model": str(record.threat_model.value),
        "eps grid": ", ".join(str(eps) for eps in protocol.eps_grid),
        "block size": protocol.block_size,
        "seed": protocol.seed,
    }


def _right(table: pd.DataFrame, outcome: Outcome) -> Bool[np.ndarray, " example"]:
    right = (table["label"] == table["clean_prediction"]).to_numpy(dtype=bool)
    return right if outcome == "clean" else right & ~table["broken"].to_numpy(dtype=bool)


def _lost_to(lost: pd.DataFrame, stages: tuple[str, ...]) -> dict[str, int]:
    causes = lost["broken_by"].fillna(CLEAN).to_numpy()
    return {stage: int(np.count_nonzero(causes == stage)) for stage in stages}
