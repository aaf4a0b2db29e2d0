"""The attacks by name."""

from dataclasses import dataclass

from mixbench.attacks.autoattack import AutoAttack
from mixbench.attacks.fast.autoattack import FastAutoAttack
from mixbench.attacks.gradient import FGSM, PGD
from mixbench.attacks.protocol import Attack
from mixbench.errors import UnknownNameError
from mixbench.records import FAST_ENGINE
from mixbench.threat_model import Norm


@dataclass(frozen=True)
class AttackSpec:
    """An attack with its default hyper-parameters and what it is for."""

    attack: Attack
    norms: tuple[Norm, ...]
    description: str


ENGINES = ("fast", "reference")
"""Who may run AutoAttack."""

CATALOGUE: dict[str, AttackSpec] = {
    "fgsm": AttackSpec(FGSM(), (Norm.LINF, Norm.L2), "one gradient step; an upper bound on robust accuracy only"),
    "pgd": AttackSpec(PGD(), (Norm.LINF, Norm.L2), "projected gradient descent, 20 steps from a random start"),
    "autoattack": AttackSpec(
        AutoAttack(), tuple(Norm), "APGD-CE, APGD-T, FAB-T and Square, the standard version; the headline number"
    ),
}


def attack_named(name: str, *, engine: str = "reference") -> Attack:
    """Return the attack called `name` with its default hyper-parameters; raises UnknownNameError.

    `engine` decides who runs AutoAttack: "reference" is pyautoattack, "fast" mixbench's own engine. Other attacks have
    the one implementation.
    """
    if name not in CATALOGUE:
        raise UnknownNameError("attack", name, CATALOGUE)
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    return FastAutoAttack() if (name, engine) == ("autoattack", "fast") else CATALOGUE[name].attack


def attack_run_by(name: str, implementation: str) -> Attack:
    """Return the attack called `name` by the engine that a record's `implementation` names; raises UnknownNameError."""
    fast = implementation.startswith(FAST_ENGINE)
    return attack_named(name, engine="fast" if fast else "reference")
