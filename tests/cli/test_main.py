import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from jaxtyping import Float, Int64
from torch import Tensor, nn

import mixbench as package
from mixbench.attacks.catalogue import CATALOGUE, AttackSpec
from mixbench.attacks.gradient import FGSM
from mixbench.threat_model import Norm, ThreatModel
from tests.cli.conftest import Run, tree

VERBS = (
    *("eval", "train", "probe", "models", "attacks", "datasets", "show", "compare", "gate", "plot", "schema"),
    *("submit", "verify", "accept", "leaderboard", "bench"),
)
HEAVY = (
    *("jinja2", "matplotlib", "numpy", "pandas", "pyarrow", "rich", "scipy", "sklearn", "timm", "torch"),
    "torchvision",
)


def test_help_names_every_verb(mixbench: Run) -> None:
    outcome = mixbench("--help")
    assert (outcome.code, outcome.err) == (0, "")
    listed = [line.split()[0] for line in outcome.out.partition("Commands:\n")[2].splitlines()]
    assert listed == list(VERBS)


@pytest.mark.parametrize("verb", [*VERBS, "bench eval", "leaderboard run"])
def test_each_verb_has_help_of_its_own(verb: str, mixbench: Run) -> None:
    outcome = mixbench(*verb.split(), "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Usage: mixbench {verb} ")


@pytest.mark.usefixtures("here")
def test_help_imports_no_heavy_package() -> None:
    """An oracle for "--help is instant" that does not depend on the machine."""
    program = f"""
import sys
from mixbench.cli.main import main
for verb in {["", *VERBS, "bench eval", "leaderboard run"]}:
    try:
        main([*verb.split(), "--help"])
    except SystemExit as ended:
        assert ended.code == 0, verb
print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stderr == "[]\n"


def test_version_is_printed(mixbench: Run) -> None:
    outcome = mixbench("--version")
    assert (outcome.code, outcome.out) == (0, f"mixbench {package.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["evil"], "No such command 'evil'", id="unknown verb"),
        pytest.param(["eval"], "Missing option '--model'", id="eval without a model"),
        pytest.param(["show"], "Missing argument", id="show without a record"),
        pytest.param(["eval", "--modle", "x"], "No such option: --modle", id="misspelt option"),
        pytest.param(["eval", "--model", "x", "--n-examples", "ten"], "--n-examples", id="word for a number"),
        pytest.param(["eval", "--model", "x", "--seed", "-1"], "--seed", id="negative seed"),
        pytest.param(["schema", "recrod"], "recrod", id="unknown format"),
    ],
)
def test_wrong_usage_exits_2_and_points_to_help(arguments: list[str], expected: str, mixbench: Run) -> None:
    outcome = mixbench(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert expected in outcome.err
    assert "--help" in outcome.err


@dataclass(frozen=True)
class _Overreaching(FGSM):
    """An attack that leaves its ball."""

    def perturb(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch channel height width"],
        labels: Int64[Tensor, " batch"],
        threat_model: ThreatModel,
        *,
        seed: int,
    ) -> Float[Tensor, "batch channel height width"]:
        del model, labels, seed
        return 0.5 * images + 0.5 * (images < float(threat_model.eps))


@dataclass(frozen=True)
class _Faulty(FGSM):
    """An attack with a bug."""

    def perturb(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch channel height width"],
        labels: Int64[Tensor, " batch"],
        threat_model: ThreatModel,
        *,
        seed: int,
    ) -> Float[Tensor, "batch channel height width"]:
        del model, images, labels, threat_model
        raise ZeroDivisionError(f"seed {seed} over nothing")


_EVAL = ("eval", "--model", "convmixer_frozen", "--n-examples", 20)


def test_a_fault_of_ours_exits_3_with_traceback_and_asks_for_a_report(
    mixbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOGUE, "fgsm", AttackSpec(_Faulty(), (Norm.LINF,), ""))
    outcome = mixbench(*_EVAL, "--attack", "fgsm")
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.startswith("Traceback (most recent call last):")
    assert "ZeroDivisionError: seed " in outcome.err
    assert f"mixbench {package.__version__}" in outcome.err.splitlines()[-1]
    assert "please report it" in outcome.err.splitlines()[-1]


def test_an_attack_that_leaves_its_threat_model_exits_3_with_the_numbers(
    mixbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOGUE, "fgsm", AttackSpec(_Overreaching(), (Norm.LINF,), ""))
    outcome = mixbench(*_EVAL, "--attack", "fgsm", "--eps", "1/10")
    assert (outcome.code, outcome.out) == (3, "")
    assert "Linf norm 0.5, above eps 1/10 = 0.1 by more than rounding" in outcome.err
    assert "please report it" in outcome.err.splitlines()[-1]


@pytest.mark.parametrize("attack", [_Overreaching(), _Faulty()], ids=["violation", "bug"])
def test_a_fault_leaves_no_record(attack: FGSM, here: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "fgsm", AttackSpec(attack, (Norm.LINF,), ""))
    mixbench(*_EVAL, "--attack", "fgsm")
    assert [name for name in tree(here) if name.endswith(("record.json", "examples.parquet"))] == []
