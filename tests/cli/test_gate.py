"""The gate as a check in CI: exit codes, reports, and a configuration that runs what it gates."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from junitparser import JUnitXml
from safetensors.torch import load_file, save_file

from mixbench.store import Store
from tests.cli import factories
from tests.cli.conftest import Outcome, Run, tree
from tests.conftest import ROOT
from tests.evaluations_for_tests import evaluation_of

_GOOD = ["robust"] * 380 + ["wrong"] * 20
_FALLEN = ["apgd-t"] * 60 + ["robust"] * 320 + ["wrong"] * 20
_UNCLEAR = ["apgd-t"] * 5 + ["robust"] * 375 + ["wrong"] * 20


@pytest.fixture(autouse=True)
def _no_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def baseline(here: Path) -> Path:
    return evaluation_of(here / "baselines", _GOOD).folder


def candidate(here: Path, fates: list[str]) -> Path:
    """A retrained model's record."""
    return evaluation_of(here / "candidates", fates, sha256="b" * 64).folder


@pytest.fixture
def gate(here: Path, baseline: Path, mixbench: Run) -> Run:
    """Gate a retrained model with some fates."""

    def run(fates: list[str], *options: object) -> Outcome:
        return mixbench("gate", "--baseline", baseline, "--candidate", candidate(here, fates), *options)

    return run


@pytest.mark.parametrize(
    ("fates", "options", "code", "verdict"),
    [
        pytest.param(_GOOD, (), 0, "pass", id="as good"),
        pytest.param(_FALLEN, (), 1, "fail", id="regression"),
        pytest.param(_UNCLEAR, (), 4, "inconclusive", id="too few examples"),
        pytest.param(_UNCLEAR, ("--allow-inconclusive",), 0, "inconclusive", id="too few examples, allowed"),
        pytest.param(_FALLEN, ("--allow-inconclusive",), 1, "fail", id="a regression is never allowed"),
        pytest.param(_UNCLEAR, ("--margin", 5), 0, "pass", id="wide margin"),
        pytest.param(_UNCLEAR, ("--alpha", 0.4), 4, "inconclusive", id="big alpha"),
        pytest.param(_FALLEN, ("--margin", 13.5), 4, "inconclusive", id="margin near the fall"),
    ],
)
def test_the_exit_code_says_the_verdict(
    fates: list[str], options: tuple[object, ...], code: int, verdict: str, gate: Run
) -> None:
    shown = gate(fates, *options)
    assert (shown.code, shown.err) == (code, "")
    assert shown.out.splitlines()[-1].startswith(f"gate: {verdict} (")


def test_the_table_has_a_row_for_each_accuracy_and_a_reason_for_what_did_not_pass(
    here: Path, baseline: Path, mixbench: Run
) -> None:
    out = mixbench("gate", "--baseline", baseline, "--candidate", candidate(here, _FALLEN)).out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert [row[3:6] + row[7:] for row in rows] == [
        ["clean", "95.00", "95.00", "1", "pass"],
        ["robust", "95.00", "80.00", "1", "fail"],
    ]
    assert "fail: robust accuracy of convmixer_frozen.digits changed by -15.00 points, 90% interval" in out
    assert out.endswith("gate: fail (1 pass, 1 fail)\n")


def test_an_inconclusive_gate_says_what_the_examples_can_tell(here: Path, baseline: Path, mixbench: Run) -> None:
    out = mixbench("gate", "--baseline", baseline, "--candidate", candidate(here, _UNCLEAR)).out
    (robust,) = [line for line in out.splitlines() if line.startswith("inconclusive: ")]
    assert "changed by -1.25 points, 90% interval of the fall [" in robust
    assert re.search(r"400 examples detect a fall of [2-5]\.\d points .*; about \d+ would pass an equally good", robust)


def test_stores_are_gated_record_by_record(here: Path, baseline: Path, mixbench: Run) -> None:
    other = {"name": "resnet_frozen.digits"}
    evaluation_of(baseline.parent, _GOOD, model=other)
    candidate(here, _GOOD)
    stores = ("gate", "--baseline", "baselines", "--candidate", "candidates", "--json")
    assert mixbench(*stores).refuses("has no candidate", "resnet_frozen.digits", "leave the baseline out")
    evaluation_of(here / "candidates", _FALLEN, model=other)
    outcome = mixbench(*stores)
    assert outcome.code == 1
    verdicts = {item["candidate"]["model"]: item["verdict"] for item in json.loads(outcome.out)["candidates"]}
    assert verdicts == {"convmixer_frozen.digits": "pass", "resnet_frozen.digits": "fail"}


def test_reports_are_written_to_the_files_that_are_named(here: Path, baseline: Path, mixbench: Run) -> None:
    files = ("--junit", "reports/gate.xml", "--summary", "reports/gate.md", "--annotations", "--json")
    outcome = mixbench("gate", "--baseline", baseline, "--candidate", candidate(here, _FALLEN), *files)
    assert outcome.code == 1
    assert JUnitXml.fromfile("reports/gate.xml").failures == 1
    assert Path("reports/gate.md").read_text().startswith("## mixbench gate: fail\n")
    assert json.loads(outcome.out)["verdict"] == "fail"
    assert outcome.err.startswith("::error title=fail%3A robust accuracy")


def test_in_github_actions_annotations_and_job_summary_come_by_themselves(
    here: Path, baseline: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = here / "steps.md"
    steps.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(steps))
    arguments = ("gate", "--baseline", baseline, "--candidate", candidate(here, _UNCLEAR))
    assert mixbench(*arguments).err.startswith("::error title=inconclusive%3A robust accuracy")
    assert mixbench(*arguments, "--allow-inconclusive").err.startswith("::warning title=inconclusive%3A")
    assert mixbench(*arguments, "--no-annotations").err == ""
    text = steps.read_text()
    assert text.startswith("before\n## mixbench gate: inconclusive\n")
    assert text.count("## mixbench gate") == 3


def test_unlike_records_are_refused(here: Path, baseline: Path, mixbench: Run) -> None:
    def gate(other: Path, *options: str) -> Outcome:
        return mixbench("gate", "--baseline", baseline, "--candidate", other, *options)

    seed = evaluation_of(here / "seed", _GOOD, seed=9).folder
    assert gate(seed).refuses("cannot be compared", "seed is 0 and 9")
    data = evaluation_of(here / "data", _GOOD, dataset={"fingerprint": "9" * 64}).folder
    assert gate(data).refuses("cannot be compared", "dataset fingerprint")
    model = evaluation_of(here / "model", _GOOD, sha256="c" * 64, model={"name": "resnet_frozen.digits"}).folder
    assert gate(model).refuses("has no candidate", "convmixer_frozen.digits")
    assert gate(model, "--allow-other-model").code == 0


def test_no_baseline_is_an_error_and_no_pass(here: Path, baseline: Path, mixbench: Run) -> None:
    one = candidate(here, _GOOD)
    assert mixbench("gate", "--candidate", one).refuses("nothing to gate", "--baseline")
    assert mixbench("gate", "--baseline", baseline).refuses("nothing to gate", "--candidate")
    assert mixbench("gate").refuses("--config")
    assert mixbench("gate", "--baseline", here / "gone", "--candidate", one).refuses("cannot read")
    (here / "empty").mkdir()
    assert mixbench("gate", "--baseline", here / "empty", "--candidate", one).refuses("holds no records")


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        pytest.param(("--margin", "-1"), "margin -1.0", id="margin"),
        pytest.param(("--alpha", "0.5"), "alpha 0.5", id="alpha"),
        pytest.param(("--update-baseline",), "--config", id="update without config"),
        pytest.param(("--config", "gate.toml"), "leave out --baseline", id="both"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: tuple[str, ...], fragment: str, here: Path, baseline: Path, mixbench: Run
) -> None:
    arguments = ("gate", "--baseline", baseline, "--candidate", candidate(here, _GOOD))
    assert mixbench(*arguments, *options).refuses(fragment)


def test_records_are_gated_without_torch(here: Path, baseline: Path) -> None:
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "torchvision", "timm", "foolbox", "eagerpy", "pyautoattack"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from mixbench.cli.main import main
main(["gate", "--baseline", {str(baseline)!r}, "--candidate", {str(candidate(here, _GOOD))!r}])
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


_CONFIG = """
baseline = "baselines"
margin = 5.0
[[evaluations]]
models = ["convmixer_trained.digits"]
checkpoint = "weights.safetensors"
dataset = "digits"
attack = "pgd"
steps = 10
eps = ["1/10"]
n_examples = 100
"""
_OWN = """
baseline = "baselines"
[[evaluations]]
models = ["tests.cli.factories:nearest_mean"]
dataset = "digits"
attack = "pgd"
steps = 8
eps = ["1/20", "1/10"]
n_examples = 20
"""
_GATE = ("gate", "--config", "gate.toml", "--device", "cpu")


def _zoo_weights(name: str) -> Path:
    return ROOT / "model_zoo" / name / "model.safetensors"


@pytest.fixture
def robust_checkpoint(here: Path, mixbench: Run) -> Path:
    """The file of an adversarially trained model's weights, which is the baseline of a gate."""
    weights = here / "weights.safetensors"
    shutil.copy(_zoo_weights("convmixer_trained.digits_linf"), weights)
    (here / "gate.toml").write_text(_CONFIG)
    outcome = mixbench(*_GATE, "--update-baseline")
    assert (outcome.code, outcome.out.startswith("baselines: 1 baselines written")) == (0, True)
    return weights


def test_an_unchanged_checkpoint_reproduces_its_baseline(robust_checkpoint: Path, mixbench: Run) -> None:
    assert robust_checkpoint.is_file()
    outcome = mixbench(*_GATE, "--json")
    assert outcome.code == 0
    (item,) = json.loads(outcome.out)["candidates"]
    assert [check["reproduced"] for check in item["checks"]] == [True, True]


def test_the_standard_model_passed_off_as_the_robust_one_fails(robust_checkpoint: Path, mixbench: Run) -> None:
    shutil.copy(_zoo_weights("convmixer_trained.digits"), robust_checkpoint)
    outcome = mixbench(*_GATE, "--json")
    assert outcome.code == 1
    clean, robust = json.loads(outcome.out)["candidates"][0]["checks"]
    assert clean["verdict"] != "fail"
    assert robust["verdict"] == "fail"
    assert robust["fall"] > 30


def test_damaged_weights_fail(robust_checkpoint: Path, mixbench: Run) -> None:
    tensors = load_file(robust_checkpoint)
    # As if quantised far too coarsely.
    save_file(
        {name: (tensor * 2).round() / 2 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()},
        robust_checkpoint,
    )
    outcome = mixbench(*_GATE, "--json")
    assert outcome.code == 1
    assert json.loads(outcome.out)["candidates"][0]["verdict"] == "fail"


def test_new_baselines_take_the_place_of_the_old(robust_checkpoint: Path, here: Path, mixbench: Run) -> None:
    (old,) = Store(here / "baselines").records()
    shutil.copy(_zoo_weights("convmixer_trained.digits"), robust_checkpoint)
    assert mixbench(*_GATE, "--update-baseline").code == 0
    (new,) = Store(here / "baselines").records()
    assert (new.model.name, new.model.sha256 != old.model.sha256) == (old.model.name, True)
    assert mixbench(*_GATE).code == 0


@pytest.fixture
def own(here: Path, mixbench: Run) -> None:
    """A gate of a quick model at two radii, with its baselines."""
    (here / "gate.toml").write_text(_OWN)
    assert mixbench(*_GATE, "--update-baseline").code == 0


@pytest.mark.usefixtures("own")
def test_every_radius_is_gated_and_nothing_unfinished_is_left(here: Path, mixbench: Run) -> None:
    outcome = mixbench(*_GATE, "--json")
    assert outcome.code == 0
    radii = [item["threat_model"]["eps"] for item in json.loads(outcome.out)["candidates"]]
    assert radii == ["1/20", "1/10"]
    assert [name for name in tree(here / "runs") if "unfinished" in name or name.endswith(".npz")] == []


@pytest.mark.usefixtures("own", "here")
def test_an_interrupted_gate_goes_on_and_a_finished_one_evaluates_anew(
    mixbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = json.loads(mixbench(*_GATE, "--json").out)
    monkeypatch.setattr(factories, "PASSES_UNTIL_CTRL_C", 15)
    outcome = mixbench(*_GATE, "--json")
    assert (outcome.code, outcome.out) == (130, "")
    assert "run the same command again to go on" in outcome.err
    # The first radius is kept: what is left takes fewer passes than the whole.
    again = mixbench(*_GATE, "--json")
    assert again.code == 0
    assert json.loads(again.out) == expected


@pytest.mark.usefixtures("own")
def test_what_has_no_fitting_baseline_is_refused_before_anything_runs(
    here: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factories, "PASSES_UNTIL_CTRL_C", 0)
    (here / "gate.toml").write_text(_OWN.replace("steps = 8", "steps = 9"))
    assert mixbench(*_GATE).refuses("cannot be compared", "attack parameters", "'steps': '8'")
    (here / "gate.toml").write_text(_OWN.replace('"1/10"]', '"1/5"]'))
    assert mixbench(*_GATE).refuses("there is no baseline", "Linf 1/5", "--update-baseline")
    shutil.rmtree(here / "baselines")
    (here / "gate.toml").write_text(_OWN)
    assert mixbench(*_GATE).refuses("there is no baseline", "no pass")


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        pytest.param(("attack", "atack"), ["gate.toml: key evaluations[0]", "attack"], id="misspelt key"),
        pytest.param(('"pgd"', '"pdg"'), ["'pdg'", "'pgd'"], id="unknown attack"),
        pytest.param(('"pgd"', '"fgsm"'), ["--steps is for --attack pgd"], id="parameters of another attack"),
        pytest.param(('"1/20"', '"2"'), ["2"], id="eps"),
        pytest.param(("nearest_mean", "gone"), ["cannot import the model"], id="unknown model"),
        pytest.param(("nearest_mean", 'nearest_mean", "tests.cli.factories:nearest_mean'), ["twice"], id="twice"),
    ],
)
def test_a_wrong_configuration_is_refused(
    change: tuple[str, str], fragments: list[str], here: Path, mixbench: Run
) -> None:
    (here / "gate.toml").write_text(_OWN.replace(*change, 1))
    assert mixbench(*_GATE).refuses(*fragments)
    assert [path.name for path in here.iterdir()] == ["gate.toml"]
