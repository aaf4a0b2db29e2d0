"""Whether a record follows a protocol that is known here: its data, its attack and the passes the attack spends."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mixbench import attacks
from mixbench.attacks import PGD, Attack
from mixbench.datasets import CATALOGUE, Examples, load_examples
from mixbench.errors import MixbenchError, RecordError, UnknownNameError
from mixbench.evaluation import BLOCK_SIZE
from mixbench.records import AttackIdentity, EvaluationRecord
from mixbench.submission.evidence import Evidence

_BALANCED = re.compile(r"balanced-([1-9][0-9]{0,6})-seed-(0|[1-9][0-9]{0,9})", re.ASCII)
_MOST_STEPS = 10_000


@dataclass(frozen=True)
class DataFolders:
    """Where datasets are, or are to be downloaded to, and where decoded images are kept."""

    data_dir: Path | None
    cache_dir: Path


def load_dataset(records: tuple[EvaluationRecord, ...], folders: DataFolders) -> Examples:
    """Return the examples that all records are about; raises RecordError if the records mean others.

    Raises DatasetError if they are not to be had here: that is no fault of the submission.
    """
    identity = records[0].dataset
    if any(record.dataset != identity for record in records):
        raise RecordError("the records are about different examples: submit each dataset or subset by itself")
    if identity.split != "test":
        raise RecordError(f"the records are about the split {identity.split!a}: evaluate on test")
    examples = _load(identity.name, identity.subset, folders)
    if (examples.fingerprint, len(examples)) != (identity.fingerprint, identity.n):
        raise RecordError(
            f"{identity.name} ({identity.split}, {identity.subset!a}) has {len(examples)} examples of fingerprint"
            f" {examples.fingerprint}, the records have {identity.n} of {identity.fingerprint}: evaluate on this data"
        )
    return examples


def _load(name: str, subset: str, folders: DataFolders) -> Examples:
    balanced = _BALANCED.fullmatch(subset)
    if balanced is None and subset not in {"all", *CATALOGUE[name].subsets}:
        raise RecordError(f"the subset {subset!a} of {name} is unknown: evaluate on one that mixbench names")
    if balanced is not None and not 0 < int(balanced[1]) <= CATALOGUE[name].splits["test"].n:
        raise RecordError(f"the subset {subset} of {name} has more examples than there are: evaluate on all")
    return load_examples(
        name,
        data_dir=folders.data_dir,
        cache_dir=folders.cache_dir,
        subset=subset if balanced is None else None,
        n_examples=None if balanced is None else int(balanced[1]),
        seed=0 if balanced is None else int(balanced[2]),
    )


def check_table(evidence: Evidence, examples: Examples) -> None:
    """Raise RecordError if the table numbers or labels the examples in another way than the dataset does."""
    for column, known in (("index", examples.indices), ("label", examples.labels)):
        told = evidence.table[column].to_numpy(np.int64)
        wrong = int((told != np.asarray(known)).sum())
        if wrong:
            raise RecordError(
                f"record {evidence.record.id}: {column} is not that of {examples.name} in {wrong} of {len(told)} rows:"
                " evaluate again"
            )


def attack_of(identity: AttackIdentity) -> Attack:
    """Return the attack that a record names, as it is configured there; raises RecordError."""
    try:
        attack = attacks.attack_of(identity)
        if isinstance(attack, PGD):
            told = identity.parameters
            attack = replace(
                attack,
                steps=int(told["steps"]),
                relative_step_size=float(told["relative_step_size"]),
                restarts=int(told["restarts"]),
            )
            if attack.steps * attack.restarts > _MOST_STEPS:
                raise RecordError(f"{attack.steps * attack.restarts} steps of pgd are over {_MOST_STEPS}: use fewer")
    except UnknownNameError as error:
        raise RecordError(str(error)) from None
    except (MixbenchError, KeyError, ValueError) as error:
        raise RecordError(f"the parameters of {identity.name!a} cannot be read ({error}): evaluate again") from None
    return attack


def check_protocol(evidence: Evidence, *, num_classes: int) -> tuple[str, ...]:
    """Return doubts about the protocol of a record; raises RecordError if it is not one that this version runs.

    The attack must have all its parameters, and each survivor must have been given the passes that the attack spends
    on an example it cannot break.
    """
    record = evidence.record
    attack, threat_model = attack_of(record.attack), record.threat_model.value
    known = dict(attack.parameters(threat_model, num_classes=num_classes))
    if (record.attack.version, record.attack.parameters) != (attack.version, known):
        raise RecordError(
            f"record {record.id}: {attack.name} {record.attack.version!a} with {record.attack.parameters!a}"
            f" is not {attack.version} with {known}: evaluate with this version of mixbench"
        )
    if set(record.broken_by) != {stage.name for stage in attack.stages}:
        raise RecordError(f"record {record.id}: broken_by names other stages than {attack.name} has: evaluate again")
    _check_passes(evidence, attack, num_classes=num_classes)
    doubts: list[str] = []
    if record.attack.implementation != attack.implementation:
        doubts.append(f"run by {record.attack.implementation}, here is {attack.implementation}")
    if record.protocol.block_size != BLOCK_SIZE:
        doubts.append(f"block size {record.protocol.block_size}, not {BLOCK_SIZE}: it shares a ranking with no other")
    if record.provenance.dirty:
        doubts.append("made by a checkout of mixbench with changes")
    return tuple(doubts)


def _check_passes(evidence: Evidence, attack: Attack, *, num_classes: int) -> None:
    threat_model = evidence.record.threat_model.value
    survivors = evidence.table.loc[evidence.clean_correct & ~evidence.broken, ["forwards", "backwards"]]
    spent = [stage.passes(threat_model, num_classes=num_classes) for stage in attack.stages]
    needed = {
        "forwards": sum(passes.forwards for passes in spent),
        "backwards": sum(passes.backwards for passes in spent),
    }
    for column, least in needed.items():
        short = int((survivors[column] < least).sum())
        if short:
            raise RecordError(
                f"record {evidence.record.id}: {short} of {len(survivors)} survivors have under {least} {column}, which"
                f" {attack.name} spends on each: evaluate with the whole budget"
            )
