"""The attacks by name."""

from dataclasses import dataclass, replace

from mixbench.attacks.autoattack import AutoAttack
from mixbench.attacks.fast.autoattack import FastAutoAttack
from mixbench.attacks.gradient import FGSM, PGD
from mixbench.attacks.protocol import FAST, REFERENCE, Attack
from mixbench.errors import UnknownNameError
from mixbench.records import AttackIdentity
from mixbench.threat_model import Norm


@dataclass(frozen=True)
class AttackSpec:
    """An attack with its default hyper-parameters and what it is for."""

    attack: AutoAttack | FGSM | PGD
    norms: tuple[Norm, ...]
    description: str


ENGINES = (FAST, REFERENCE)

CATALOGUE: dict[str, AttackSpec] = {
    "fgsm": AttackSpec(FGSM(), (Norm.LINF, Norm.L2), "one gradient step; an upper bound on robust accuracy only"),
    "pgd": AttackSpec(PGD(), (Norm.LINF, Norm.L2), "projected gradient descent, 20 steps from a random start"),
    "autoattack": AttackSpec(
        AutoAttack(), tuple(Norm), "APGD-CE, APGD-T, FAB-T and Square, the standard version; the headline number"
    ),
}


def attack_named(name: str, *, engine: str = "reference") -> Attack:
    """Return the attack called `name` with its default hyper-parameters; raises UnknownNameError.

    `engine` "fast" has AutoAttack run by mixbench's own engine instead of pyautoattack, and lets foolbox's attacks see
    the model's fastest executor; verdicts are the float32 model's in any case.
    """
    if name not in CATALOGUE:
        raise UnknownNameError("attack", name, CATALOGUE)
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    attack = CATALOGUE[name].attack
    if engine == REFERENCE:
        return attack
    return FastAutoAttack() if isinstance(attack, AutoAttack) else replace(attack, engine=engine)


def usual_engine(name: str, norm: Norm | None) -> str:
    """Return FAST for AutoAttack in a norm that the fast engine knows, None being one, and REFERENCE for all else."""
    return FAST if name == "autoattack" and norm is not Norm.L1 else REFERENCE


def attack_of(identity: AttackIdentity) -> Attack:
    """Return the attack that `identity` names, with its engine and default parameters; raises UnknownNameError."""
    return attack_named(identity.name, engine=identity.engine)
