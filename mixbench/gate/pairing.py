"""Which candidate belongs to which baseline."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mixbench.comparison import Evaluated, check_comparable
from mixbench.errors import RecordError
from mixbench.gate.verdict import Pair
from mixbench.records import ModelIdentity
from mixbench.store import RECORD_NAME, Store, StoredEvaluation, load_evaluation

Key = tuple[str, ...]


class EvaluatedModel(Evaluated, Protocol):
    """An evaluation, made or planned, and whose it is."""

    @property
    def model(self) -> ModelIdentity: ...  # noqa: D102 - as in a record


def read_evaluations(paths: Sequence[Path]) -> tuple[StoredEvaluation, ...]:
    """Return the evaluations in `paths`, each a record's folder, its record.json, or a store of records.

    Raises RecordError if there is none in one of them, or if a record cannot be trusted.
    """
    return tuple(evaluation for path in paths for evaluation in _read(path))


def _read(path: Path) -> tuple[StoredEvaluation, ...]:
    if not path.is_dir() or (path / RECORD_NAME).is_file():
        return (load_evaluation(path),)
    found = Store(path).evaluations()
    if not found:
        raise RecordError(f"{path} holds no records: give a record's folder, or a folder of such folders")
    return found


def pair_up(
    baselines: Sequence[StoredEvaluation],
    candidates: Sequence[StoredEvaluation],
    *,
    margin: float,
    any_model: bool = False,
) -> tuple[Pair, ...]:
    """Return each baseline with its candidate; with `any_model` the name of the model may differ.

    Raises RecordError for a baseline without a candidate, a candidate without a baseline, or two of either.
    """
    before, after = (_by_key(group, any_model=any_model) for group in (baselines, candidates))
    for key, evaluation in before.items():
        if key not in after:
            raise RecordError(
                f"the baseline {evaluation.record.id} has no candidate: evaluate {_told(key)}, or leave the baseline"
                " out"
            )
    for key, evaluation in after.items():
        if key not in before:
            raise RecordError(
                f"the candidate {evaluation.record.id} has no baseline, which is no pass: add a baseline of"
                f" {_told(key)}, or leave the candidate out"
            )
    return tuple(Pair(evaluation, after[key], margin) for key, evaluation in before.items())


def baseline_of(planned: EvaluatedModel, baselines: Sequence[StoredEvaluation]) -> StoredEvaluation:
    """Return the baseline that an evaluation which is planned, or made, will be held against.

    Raises RecordError if there is none, more than one, or only one of another protocol.
    """
    key = _key(planned, any_model=False)
    same = [item for item in baselines if _key(item.record, any_model=False) == key]
    if not same:
        raise RecordError(
            f"there is no baseline of {_told(key)}, which is no pass: write one with --update-baseline, and commit it"
        )
    # A store may keep the records of several protocols.
    fitting = [item for item in same if item.record.protocol.hash == planned.protocol.hash] or same
    if len(fitting) > 1:
        folders = " and ".join(str(item.folder) for item in fitting)
        raise RecordError(f"{folders} are both baselines of {_told(key)}: delete the one that is not meant")
    check_comparable(fitting[0].record, planned)
    return fitting[0]


def is_superseded(baseline: EvaluatedModel, by: EvaluatedModel) -> bool:
    """Return whether `by` takes the place of `baseline`: same model, data, attack and threat model, another record."""
    return baseline.id != by.id and _key(baseline, any_model=False) == _key(by, any_model=False)


def _by_key(evaluations: Sequence[StoredEvaluation], *, any_model: bool) -> dict[Key, StoredEvaluation]:
    keys = [_key(evaluation.record, any_model=any_model) for evaluation in evaluations]
    for key, count in Counter(keys).items():
        if count > 1:
            same = [str(item.folder) for item, other in zip(evaluations, keys, strict=True) if other == key]
            raise RecordError(f"{' and '.join(same)} are both of {_told(key)}: name the one that is meant")
    return dict(zip(keys, evaluations, strict=True))


def _key(evaluation: EvaluatedModel, *, any_model: bool) -> Key:
    """Return what a candidate and its baseline have in common: names of model, data, attack, and the threat model.

    What else their protocols say is compared once they are paired, so that a difference is named.
    """
    dataset = evaluation.dataset
    key = (
        f"{dataset.name} ({dataset.split}, {dataset.subset})",
        evaluation.attack.name,
        str(evaluation.threat_model.value),
    )
    return key if any_model else (evaluation.model.name, *key)


def _told(key: Key) -> str:
    return ", ".join(key)
