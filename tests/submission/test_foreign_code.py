"""Submissions that bring code: never run unless it is trusted, and judged by what the network does."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from mixbench.attacks import attack_named
from mixbench.errors import CheckpointError
from mixbench.models import zoo_folder
from mixbench.submission import NetworkFiles, Status, accept, foreign_network, submission_name
from tests.submission.conftest import Packer, Verify
from tests.submission.forging import MANIFEST, copied, edit_json, replaced

_MODULE = "tests.submission.foreign_code"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = load((zoo_folder() / "convmixer_frozen.digits" / "model.safetensors").read_bytes())
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_file({f"inner.{name}": tensor for name, tensor in tensors.items()}, path)
    return path


@pytest.fixture(scope="session")
def foreign(packer: Packer, weights: Path) -> Path:
    model = f"{_MODULE}:Foreign"
    return packer(foreign_network(submission_name(model, "mine"), model, weights), attack_named("fgsm"), n=48)


def with_factory(folder: Path, factory: str) -> Path:
    edit_json(folder / MANIFEST, lambda manifest: manifest.update(factory=factory))
    return folder


def test_code_is_not_run_unless_it_is_trusted(foreign: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(foreign, tmp_path)
    trap = tmp_path / "trap"
    replaced("code/model.py", f"open({str(trap)!r}, 'w').close()\n".encode())(folder)
    report = check(folder)
    failed = [row for row in report.checks if row.status is Status.FAIL]
    assert [row.check for row in failed] == ["config"]
    assert "code/model.py" in failed[0].reason
    assert "--trust-code" in failed[0].reason
    assert not trap.exists()


def test_trusted_code_passes_if_it_is_honest(foreign: Path, check: Verify) -> None:
    modules = set(sys.modules)
    report = check(foreign, trust_code=True, survivors=1)
    assert report.passed, report.to_markdown()
    assert report.trusted_code
    assert json.loads(report.to_json())["checks"][5]["status"] == "warn"
    assert set(sys.modules) == modules
    assert not list(foreign.rglob("*.pyc"))


@pytest.mark.parametrize(
    ("factory", "refusal"),
    [
        ("Noisy", ("determinism", "looks at random numbers")),
        ("Softmax", ("logits", "probabilities")),
        ("Centred", ("eval mode", "with the other images of the batch")),
        ("Detached", ("gradients", "the gradient of the cross-entropy is zero or not finite for 48 of 48")),
        ("Quantised", ("gradients", "the gradient of the cross-entropy is zero or not finite for 48 of 48")),
        ("Narrow", ("input range", "NaN or infinite")),
        ("broken", ("build", "cannot import name")),
        ("no_network", ("build", "no torch.nn.Module")),
        ("absent", ("build", "AttributeError")),
    ],
)
def test_a_network_that_cheats(
    factory: str, refusal: tuple[str, str], foreign: Path, tmp_path: Path, check: Verify
) -> None:
    report = check(with_factory(copied(foreign, tmp_path), factory), trust_code=True)
    failed = {row.check: row.reason for row in report.checks if row.status is Status.FAIL}
    assert refusal[1] in failed[refusal[0]]


def test_gradients_that_lead_astray(packer: Packer, weights: Path, check: Verify) -> None:
    """An honest PGD run finds almost nothing on this network; an attack without gradients finds most."""
    model = f"{_MODULE}:Astray"
    network: NetworkFiles = foreign_network(submission_name(model, "robust"), model, weights)
    report = check(packer(network, attack_named("pgd"), n=48), trust_code=True)
    failed = {row.check: row.reason for row in report.checks if row.status is Status.FAIL}
    assert list(failed) == ["masking"]
    assert "Square, which sees no gradient, breaks" in failed["masking"]
    assert "gradients are masked" in failed["masking"]


def test_weights_that_the_code_has_no_place_for(foreign: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(foreign, tmp_path)
    save_file({"other": torch.zeros(3)}, folder / "model.safetensors")
    replaced("model.safetensors", (folder / "model.safetensors").read_bytes())(folder)
    report = check(folder, trust_code=True)
    assert [row.check for row in report.checks if row.status is Status.FAIL] == ["build"]


def test_an_accepted_foreign_network_stays_out_of_the_zoo(foreign: Path, tmp_path: Path, check: Verify) -> None:
    for folder in ("model_zoo", "leaderboards/incoming"):
        (tmp_path / folder).mkdir(parents=True)
    folder = copied(foreign, tmp_path / "leaderboards" / "incoming")
    report = check(folder, trust_code=True, survivors=1)
    accepted = accept(folder, report, tmp_path, rebuild=lambda _: None)
    assert list((tmp_path / "model_zoo").iterdir()) == []
    assert (tmp_path / "leaderboards" / "submissions" / "foreign.mine" / "code" / "model.py").is_file()
    assert len(accepted.places) == 3


def test_packing_other_weights_is_refused(weights: Path, tmp_path: Path) -> None:
    save_file({"other": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="lacks the tensor"):
        foreign_network("foreign.mine", f"{_MODULE}:Foreign", tmp_path / "w.safetensors")
    assert weights.is_file()
