"""Numbers, attacks and commands as the pages write them."""

import shlex
from collections.abc import Mapping
from fractions import Fraction
from functools import cache

from mixbench.leaderboard.cards import Card
from mixbench.records import Accuracy, AttackIdentity, EvaluationRecord
from mixbench.statistics import Interval, wilson_interval
from mixbench.threat_model import ThreatModel

_GREY_LEVELS = 255
_PLAIN_DENOMINATORS = frozenset({1, 3, 5, 15})
_DEFAULT_BLOCK = 1000
_TITLES = {"fgsm": "FGSM", "autoattack": "AutoAttack"}


def percent(rate: float) -> str:
    """Return a rate in percent, with one decimal."""
    return f"{100 * rate:.1f}"


def interval_of(accuracy: Accuracy) -> Interval:
    """Return the 95% Wilson interval of `accuracy`."""
    return _interval(accuracy.correct, accuracy.total)


@cache
def _interval(correct: int, total: int) -> Interval:
    # Pages write each interval several times, and models share them.
    return wilson_interval(correct, total)


def interval_text(accuracy: Accuracy) -> str:
    """Return the 95% Wilson interval in percent, such as "95.3 to 98.7"."""
    interval = interval_of(accuracy)
    return f"{percent(interval.low)} to {percent(interval.high)}"


@cache
def radius(eps: Fraction) -> str:
    """Return eps in 255ths where it is meant so, such as "0.25/255" for 1/1020, else as a fraction."""
    levels = eps * _GREY_LEVELS
    if eps.denominator not in _PLAIN_DENOMINATORS and levels.denominator in {1, 2, 4} and levels < _GREY_LEVELS:
        # 1/10 is 25.5/255, but nobody means that.
        return (
            str(eps)
            if levels.denominator > 1 and eps.numerator == 1 and eps.denominator < _GREY_LEVELS
            else (f"{float(levels):g}/{_GREY_LEVELS}")
        )
    return str(eps)


def threat_model_text(threat_model: ThreatModel) -> str:
    """Return a threat model such as "Linf 2/255"."""
    return f"{threat_model.norm.value} {radius(threat_model.eps)}"


def attack_title(attack: AttackIdentity) -> str:
    """Return an attack's name for people: PGD is told with its steps and, if several, its restarts."""
    if attack.name == "pgd" and "steps" in attack.parameters:
        restarts = attack.parameters.get("restarts", "1")
        return f"PGD-{attack.parameters['steps']}" + ("" if restarts == "1" else f", {restarts} restarts")
    return _TITLES.get(attack.name, attack.name)


def command(record: EvaluationRecord, cards: Mapping[str, Card]) -> str:
    """Return the command that makes `record` again, with those at the smaller radii of its grid."""
    data, protocol, threat_model = record.dataset, record.protocol, record.threat_model
    words = ["mixbench", "eval", "--model", _model_argument(record, cards), "--attack", record.attack.name]
    if record.attack.name == "pgd":
        for name in ("steps", "relative_step_size", "restarts"):
            words += [f"--{name.replace('_', '-')}", record.attack.parameters.get(name, "")]
    if record.attack.name == "autoattack" or record.attack.engine != "reference":
        words += ["--engine", record.attack.engine]
    words += ["--dataset", data.name, "--norm", threat_model.norm.value]
    words += ["--eps", ",".join(str(eps) for eps in protocol.eps_grid), "--seed", str(protocol.seed)]
    words += [] if data.split == "test" else ["--split", data.split]
    if data.subset.startswith("balanced"):
        words += ["--n-examples", str(data.n)]
    elif data.subset != "all":
        words += ["--subset", data.subset]
    words += [] if protocol.block_size == _DEFAULT_BLOCK else ["--block-size", str(protocol.block_size)]
    return shlex.join(words)


def _model_argument(record: EvaluationRecord, cards: Mapping[str, Card]) -> str:
    card = cards.get(record.model.name)
    submitted = card is not None and not card.folder.startswith("../")
    return f"local-dir:leaderboards/{card.folder}" if card is not None and submitted else record.model.name
