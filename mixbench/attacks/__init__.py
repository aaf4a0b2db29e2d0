"""Attacks behind one small protocol; foolbox and pyautoattack are imported here and nowhere else.

    FGSM, PGD       Linf, L2         foolbox
    AutoAttack      Linf, L2, L1     pyautoattack, standard version

An attack is a frozen dataclass of its hyper-parameters. It is never trusted: `mixbench.evaluation` verifies what it
returns.
"""

from mixbench.attacks.autoattack import AutoAttack
from mixbench.attacks.catalogue import CATALOGUE, AttackSpec, attack_named
from mixbench.attacks.gradient import FGSM, PGD
from mixbench.attacks.protocol import Attack, AttackWarning, Passes, Stage

__all__ = [
    "CATALOGUE",
    "FGSM",
    "PGD",
    "Attack",
    "AttackSpec",
    "AttackWarning",
    "AutoAttack",
    "Passes",
    "Stage",
    "attack_named",
]
