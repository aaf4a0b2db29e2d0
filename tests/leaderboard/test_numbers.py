from fractions import Fraction

import pytest

from mixbench.cli.eval import attack_by
from mixbench.datasets import load_examples
from mixbench.evaluation import plan
from mixbench.leaderboard.numbers import attack_title, command, radius
from mixbench.models import load_model
from mixbench.records import EvaluationRecord
from mixbench.store import Store
from mixbench.threat_model import Norm, ThreatModel, parse_eps
from tests.conftest import ROOT
from tests.leaderboard.boards_for_tests import GOLDEN
from tests.test_checks import parse


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        *(("1/1020", "0.25/255"), ("1/510", "0.5/255"), ("1/255", "1/255"), ("8/255", "8/255"), ("1/51", "5/255")),
        *(("1/40", "1/40"), ("1/10", "1/10"), ("1/5", "1/5"), ("1/4", "1/4"), ("1/2", "1/2"), ("1", "1"), ("3", "3")),
    ],
)
def test_a_radius_reads_as_it_is_meant(eps: str, text: str) -> None:
    assert radius(Fraction(eps)) == text


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"name": "pgd", "parameters": {"steps": "20", "restarts": "1"}}, "PGD-20"),
        ({"name": "pgd", "parameters": {"steps": "50", "restarts": "5"}}, "PGD-50, 5 restarts"),
        ({"name": "fgsm"}, "FGSM"),
        ({"name": "autoattack"}, "AutoAttack"),
        ({"name": "something else"}, "something else"),
    ],
)
def test_an_attack_is_told_with_what_matters(changes: dict, title: str) -> None:
    assert attack_title(GOLDEN.attack.model_copy(update=changes)) == title


def committed(attack: str) -> list[EvaluationRecord]:
    records = Store(ROOT / "leaderboards" / "records").records()
    return [
        record for record in records if record.attack.name == attack and record.model.name == "convmixer_frozen.digits"
    ]


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "autoattack"])
def test_the_command_of_a_record_plans_the_same_protocol(attack: str) -> None:
    examples = load_examples("digits", data_dir=None, cache_dir=ROOT, seed=0)
    model = load_model("convmixer_frozen.digits")
    records = committed(attack)
    assert len(records) >= 7
    for record in records:
        words = command(record, {}).split()
        parse(words[1:])
        told = dict(zip(words[2::2], words[3::2], strict=True))
        assert (told["--model"], told["--attack"], told["--dataset"]) == (model.identity.name, attack, "digits")
        threat_models = [ThreatModel(Norm.parse(told["--norm"]), parse_eps(eps)) for eps in told["--eps"].split(",")]
        chosen = attack_by(attack, told.get("--engine"), told["--norm"])
        again = plan(model, examples, chosen, threat_models, seed=int(told["--seed"]))
        assert again.record_ids[-1] == record.id


def test_the_command_says_what_is_not_the_default() -> None:
    data = GOLDEN.dataset.model_copy(update={"split": "train", "subset": "balanced-50-seed-7", "n": 50})
    protocol = GOLDEN.protocol.model_copy(update={"block_size": 10})
    words = command(GOLDEN.model_copy(update={"dataset": data, "protocol": protocol}), {})
    assert "--steps 50 --relative-step-size 0.025 --restarts 5" in words
    assert words.endswith("--eps 1/20,1/10 --seed 7 --split train --n-examples 50 --block-size 10")
    parse(words.split()[1:])


def test_a_name_with_spaces_stays_one_argument() -> None:
    model = GOLDEN.model.model_copy(update={"name": "a; rm -rf ~"})
    assert "--model 'a; rm -rf ~' --attack" in command(GOLDEN.model_copy(update={"model": model}), {})
