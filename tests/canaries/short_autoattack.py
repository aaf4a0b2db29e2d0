"""The real AutoAttack, cut down to what a canary needs."""

from collections.abc import Callable
from typing import Any

from pyautoattack import AutoAttack
from torch import Tensor, nn

from tests.canaries.digits_model import EPS


def short(
    model: nn.Module, attacks: list[str], *, norm: str = "Linf", eps: float | None = None, seed: int | None = 0
) -> Any:
    """Return the standard version, cut down to `attacks` and to few steps, targets and queries."""
    build: Any = AutoAttack
    library = build(model, norm=norm, eps=EPS[norm] if eps is None else eps, seed=seed)
    library.attacks_to_run = attacks
    for apgd in (library.apgd, library.apgd_targeted):
        apgd.n_iter = apgd.n_iter_orig = 8
        apgd.n_restarts = 1
    library.fab.n_iter = 8
    library.apgd_targeted.n_target_classes = library.fab.n_target_classes = 2
    library.square.n_queries = 30
    return library


def sub_attack(library: Any, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    library.fab.targeted = True
    parts = {"apgd-ce": library.apgd, "apgd-t": library.apgd_targeted, "fab-t": library.fab, "square": library.square}
    parts[name].seed = 0
    return parts[name].perturb
