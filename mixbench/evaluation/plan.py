"""What is going to be evaluated: parts that fit each other, and the protocols they make."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from mixbench.attacks import Attack
from mixbench.datasets import Examples
from mixbench.errors import InvalidInputError
from mixbench.evaluation.blocks import BLOCK_SIZE
from mixbench.models import LoadedModel
from mixbench.records import (
    AttackIdentity,
    DatasetIdentity,
    Protocol,
    ThreatModelField,
    protocol_hash,
    record_id,
)
from mixbench.threat_model import ThreatModel


@dataclass(frozen=True)
class Plan:
    """What is going to be evaluated, checked and ready to be hashed.

    Attributes:
        threat_models: Of one norm, by rising eps.
        protocols: One for each threat model.
    """

    model: LoadedModel
    examples: Examples
    attack: Attack
    threat_models: tuple[ThreatModel, ...]
    dataset: DatasetIdentity
    attack_identity: AttackIdentity
    protocols: tuple[Protocol, ...]

    @property
    def record_ids(self) -> tuple[str, ...]:
        """The folder names that the records will have."""
        return tuple(
            record_id(
                self.model.identity, self.dataset, self.attack_identity, ThreatModelField.of(threat_model), protocol
            )
            for threat_model, protocol in zip(self.threat_models, self.protocols, strict=True)
        )

    @property
    def key(self) -> str:
        """A short hash of the records that it makes, fit for the name of a folder."""
        return hashlib.sha256("".join(self.record_ids).encode()).hexdigest()[:16]


def plan(
    model: LoadedModel,
    examples: Examples,
    attack: Attack,
    threat_models: Sequence[ThreatModel],
    *,
    seed: int,
    block_size: int = BLOCK_SIZE,
) -> Plan:
    """Return the plan of an evaluation; raises InvalidInputError if its parts do not fit each other."""
    ordered = tuple(sorted(set(threat_models), key=lambda threat_model: threat_model.eps))
    if not ordered or len({threat_model.norm for threat_model in ordered}) != 1:
        raise InvalidInputError("one evaluation needs threat models of one norm: run each norm by itself")
    if block_size < 1:
        raise InvalidInputError(f"block size {block_size} is not at least 1: leave it at {BLOCK_SIZE}")
    channels, height, width = examples.images.shape[1:]
    for threat_model in ordered:
        attack.check_fits(threat_model, num_classes=examples.num_classes, image_size=(channels, height, width))
        threat_model.check_fits(channels * height * width)
    if model.image_size is not None and model.image_size != (channels, height, width):
        raise InvalidInputError(
            f"{model.identity.name} takes images of {'x'.join(map(str, model.image_size))}, {examples.name} has"
            f" {channels}x{height}x{width}: choose a dataset or a checkpoint of the same size"
        )
    dataset = DatasetIdentity(
        name=examples.name,
        split=examples.split,
        subset=examples.subset,
        fingerprint=examples.fingerprint,
        n=len(examples),
    )
    identities = [_attack_identity(attack, threat_model, examples.num_classes) for threat_model in ordered]
    protocols = tuple(
        _protocol(dataset, identity, ordered[: index + 1], seed=seed, block_size=block_size)
        for index, identity in enumerate(identities)
    )
    return Plan(model, examples, attack, ordered, dataset, identities[0], protocols)


def _attack_identity(attack: Attack, threat_model: ThreatModel, num_classes: int) -> AttackIdentity:
    return AttackIdentity(
        name=attack.name,
        version=attack.version,
        implementation=attack.implementation,
        parameters=dict(attack.parameters(threat_model, num_classes=num_classes)),
    )


def _protocol(
    dataset: DatasetIdentity,
    attack: AttackIdentity,
    grid: tuple[ThreatModel, ...],
    *,
    seed: int,
    block_size: int,
) -> Protocol:
    """Return the protocol of the last threat model of `grid`, after the smaller ones were attacked."""
    eps_grid = tuple(threat_model.eps for threat_model in grid)
    digest = protocol_hash(
        dataset=dataset,
        attack=attack,
        threat_model=ThreatModelField.of(grid[-1]),
        block_size=block_size,
        seed=seed,
        eps_grid=eps_grid,
    )
    return Protocol(block_size=block_size, seed=seed, eps_grid=eps_grid, hash=digest)
