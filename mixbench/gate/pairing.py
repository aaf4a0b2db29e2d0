"""Which candidate belongs to which baseline."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mixbench.errors import RecordError
from mixbench.gate.verdict import Pair
from mixbench.records import AttackIdentity, DatasetIdentity, ThreatModelField
from mixbench.store import RECORD_NAME, Store, StoredEvaluation, load_evaluation

Key = tuple[str, ...]


def key_of(model_name: str, dataset: DatasetIdentity, attack: AttackIdentity, threat_model: ThreatModelField) -> Key:
    """Return what a candidate and its baseline have in common: names of model, data, attack, and the threat model.

    What else their protocols say is compared once they are paired, so that a difference is named.
    """
    return model_name, f"{dataset.name} ({dataset.split}, {dataset.subset})", attack.name, str(threat_model.value)


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


def _by_key(evaluations: Sequence[StoredEvaluation], *, any_model: bool) -> dict[Key, StoredEvaluation]:
    keys = [_key(evaluation, any_model=any_model) for evaluation in evaluations]
    ((most, count),) = Counter(keys).most_common(1) or [((), 0)]
    if count > 1:
        same = [str(item.folder) for item, key in zip(evaluations, keys, strict=True) if key == most]
        raise RecordError(f"{' and '.join(same)} are both of {_told(most)}: name the one that is meant")
    return dict(zip(keys, evaluations, strict=True))


def _key(evaluation: StoredEvaluation, *, any_model: bool) -> Key:
    record = evaluation.record
    key = key_of(record.model.name, record.dataset, record.attack, record.threat_model)
    return key[1:] if any_model else key


def _told(key: Key) -> str:
    return ", ".join(key)
