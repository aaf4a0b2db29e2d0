"""The attacks by name."""

from dataclasses import dataclass

from mixbench.attacks.autoattack import AutoAttack
from mixbench.attacks.gradient import FGSM, PGD
from mixbench.attacks.protocol import Attack
from mixbench.errors import UnknownNameError
from mixbench.threat_model import Norm


@dataclass(frozen=True)
class AttackSpec:
    """An attack with its default hyper-parameters and what it is for."""

    attack: Attack
    norms: tuple[Norm, ...]
    description: str


CATALOGUE: dict[str, AttackSpec] = {
    "fgsm": AttackSpec(FGSM(), (Norm.LINF, Norm.L2), "one gradient step; an upper bound on robust accuracy only"),
    "pgd": AttackSpec(PGD(), (Norm.LINF, Norm.L2), "projected gradient descent, 20 steps from a random start"),
    "autoattack": AttackSpec(
        AutoAttack(), tuple(Norm), "APGD-CE, APGD-T, FAB-T and Square, the standard version; the headline number"
    ),
}


def attack_named(name: str) -> Attack:
    """Return the attack called `name` with its default hyper-parameters; raises UnknownNameError."""
    if name not in CATALOGUE:
        raise UnknownNameError("attack", name, CATALOGUE)
    return CATALOGUE[name].attack
