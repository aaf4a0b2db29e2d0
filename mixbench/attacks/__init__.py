"""Attacks behind one small protocol; foolbox and pyautoattack are imported here and nowhere else.

    FGSM, PGD       Linf, L2         foolbox
    AutoAttack      Linf, L2, L1     pyautoattack, standard version
    FastAutoAttack  Linf, L2         the same four searches by mixbench's own engine

An attack is a frozen dataclass of its hyper-parameters. It is never trusted: `mixbench.evaluation` verifies what it
returns.
"""

from mixbench.attacks.autoattack import AutoAttack
from mixbench.attacks.catalogue import CATALOGUE, ENGINES, AttackSpec, attack_named, attack_of, usual_engine
from mixbench.attacks.fast import Engine, FastAutoAttack, FastStage, margins
from mixbench.attacks.gradient import FGSM, PGD
from mixbench.attacks.protocol import FAST, REFERENCE, Attack, AttackWarning, Passes, Stage

__all__ = [
    "CATALOGUE",
    "ENGINES",
    "FAST",
    "FGSM",
    "PGD",
    "REFERENCE",
    "Attack",
    "AttackSpec",
    "AttackWarning",
    "AutoAttack",
    "Engine",
    "FastAutoAttack",
    "FastStage",
    "Passes",
    "Stage",
    "attack_named",
    "attack_of",
    "margins",
    "usual_engine",
]
