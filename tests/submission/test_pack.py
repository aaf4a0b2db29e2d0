"""Packing: what goes in is what lies there, and what does not fit is refused before anything is written."""

import json
import lzma
import stat
from pathlib import Path

import pytest
from safetensors.torch import load, save_file

from mixbench.attacks import attack_named
from mixbench.datasets import load_examples
from mixbench.errors import CheckpointError, InvalidInputError, RecordError, UnknownNameError
from mixbench.evaluation import evaluate, plan
from mixbench.models import LoadedModel, load_model, zoo_folder
from mixbench.records import EvaluationRecord
from mixbench.store import Store, load_record
from mixbench.submission import (
    DataFolders,
    Environment,
    Manifest,
    NetworkFiles,
    Result,
    SubmissionCard,
    bundle_hash,
    pack,
    registered_network,
    submission_name,
)
from mixbench.threat_model import ThreatModel
from tests.submission.conftest import CARD, Verify
from tests.submission.forging import record_folder

_ZOO = zoo_folder() / "convmixer_frozen.digits"


@pytest.fixture(scope="module")
def result(honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The record of the honest submission, stored as an evaluation stores it."""
    place = record_folder(honest)
    record = json.loads((place / "record.json").read_text())
    adversarials = lzma.decompress((place / "adversarials.safetensors.xz").read_bytes())
    store = Store(tmp_path_factory.mktemp("store"))
    examples = (place / "examples.parquet").read_bytes()
    return Result.load(
        store.add(EvaluationRecord.from_json(json.dumps(record)), examples=examples, adversarials=adversarials)
    )


def test_a_submission_is_a_checkpoint_that_timm_reads(honest: Path) -> None:
    loaded = load_model(f"local-dir:{honest}")
    assert loaded.identity.name == "convmixer_frozen.honest"
    assert (honest / "model.safetensors").read_bytes() == (_ZOO / "model.safetensors").read_bytes()


def test_the_manifest_covers_every_file(honest: Path) -> None:
    content = (honest / "submission.json").read_bytes()
    manifest = Manifest.from_bytes(content)
    files = {str(path.relative_to(honest)) for path in honest.rglob("*") if path.is_file()}
    assert {file.path for file in manifest.files} | {"submission.json"} == files
    assert manifest.to_bytes() == content
    assert bundle_hash(content) != bundle_hash(content + b" ")
    assert SubmissionCard.from_bytes((honest / "card.json").read_bytes()) == CARD
    assert Environment.from_bytes((honest / "environment.json").read_bytes()) == Environment.collect()
    assert {"mixbench", "torch", "timm"} <= Environment.collect().packages.keys()


def test_others_may_read_what_was_packed(honest: Path) -> None:
    for path in (honest, *honest.rglob("*")):
        assert path.stat().st_mode & stat.S_IROTH


def test_packing_existing_records_gives_the_same_submission(
    result: Result, zoo_network: NetworkFiles, honest: Path, tmp_path: Path
) -> None:
    identity = zoo_network.load((1, 8, 8)).identity
    submission = pack(tmp_path, zoo_network, [result.renamed(identity)], CARD)
    assert submission.bundle_sha256 == bundle_hash((honest / "submission.json").read_bytes())


def test_a_record_of_another_name_is_taken_and_of_other_weights_refused(
    result: Result, zoo_network: NetworkFiles
) -> None:
    loaded: LoadedModel = zoo_network.load((1, 8, 8))
    other = loaded.identity.model_copy(update={"name": "convmixer_frozen.other"})
    renamed = result.renamed(other)
    assert renamed.record.model.name == "convmixer_frozen.other"
    assert renamed.record.protocol == result.record.protocol
    with pytest.raises(RecordError, match=r"is of weights .* evaluate this checkpoint"):
        result.renamed(other.model_copy(update={"sha256": "0" * 64}))


def test_a_record_without_adversarial_images_is_refused(result: Result, tmp_path: Path) -> None:
    folder = Store(tmp_path).add(result.record, examples=result.examples)
    assert load_record(folder).adversarials_sha256 is None
    with pytest.raises(RecordError, match="--save-adversarials"):
        Result.load(folder)


def test_nothing_is_overwritten(result: Result, zoo_network: NetworkFiles, tmp_path: Path) -> None:
    (tmp_path / zoo_network.name).mkdir()
    with pytest.raises(RecordError, match="exists already"):
        pack(tmp_path, zoo_network, [result], CARD)
    assert list(tmp_path.rglob("*")) == [tmp_path / zoo_network.name]


def test_nothing_is_left_of_a_submission_that_cannot_be_written(
    result: Result, zoo_network: NetworkFiles, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RecordError, match="cannot write"):
        pack(tmp_path / "file" / "below", zoo_network, [result], CARD)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_names_of_models(data: DataFolders) -> None:
    assert submission_name("resnet_trained", "x1") == "resnet_trained.x1"
    assert submission_name("my_module:build", "x1") == "foreign.x1"
    with pytest.raises(UnknownNameError, match="did you mean 'resnet_frozen'"):
        submission_name("resnet_frozn", "x1")
    with pytest.raises(InvalidInputError, match="a function of your own that builds it"):
        submission_name("timm:resnet18", "x1")
    with pytest.raises(InvalidInputError, match="give a tag"):
        submission_name("resnet_trained", "X 1")
    assert data.data_dir is None


def test_a_file_of_weights_is_proven_against_its_filter_seed(
    data: DataFolders, tmp_path: Path, check: Verify, tmp_path_factory: pytest.TempPathFactory
) -> None:
    examples = load_examples("digits", data_dir=None, cache_dir=data.cache_dir, n_examples=20, seed=0)
    save_file(load((_ZOO / "model.safetensors").read_bytes()), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="filter seed 1"):
        registered_network("convmixer_frozen.bare", tmp_path / "w.safetensors", examples, filter_seed=1)
    network = registered_network("convmixer_frozen.bare", tmp_path / "w.safetensors", examples, filter_seed=0)
    loaded = network.load((1, 8, 8))
    run = plan(loaded, examples, attack_named("fgsm"), [ThreatModel.parse("Linf 1/10")], seed=0)
    evaluations = evaluate(run, workspace=tmp_path_factory.mktemp("workspace"))
    submission = pack(tmp_path, network, [Result.of(evaluation) for evaluation in evaluations], CARD)
    report = check(submission.folder, survivors=1)
    assert report.passed, report.to_markdown()
    config = json.loads((submission.folder / "config.json").read_text())
    assert "are not known" in config["mixbench"]["command"]


@pytest.mark.parametrize(
    ("name", "checkpoint", "fragment"),
    [
        ("convmixer_trained.x", _ZOO, "is a checkpoint of convmixer_frozen, not of convmixer_trained"),
        ("convmixer_frozen.x", _ZOO.parent, "has no config.json"),
        ("convmixer_frozen.x", _ZOO / "nowhere.safetensors", "cannot read the checkpoint"),
        ("resnet_frozen.x", _ZOO / "README.md", "is not a readable safetensors file"),
    ],
)
def test_a_checkpoint_that_does_not_fit(name: str, checkpoint: Path, fragment: str, data: DataFolders) -> None:
    examples = load_examples("digits", data_dir=None, cache_dir=data.cache_dir, seed=0)
    with pytest.raises(CheckpointError, match=fragment):
        registered_network(name, checkpoint, examples, filter_seed=0)
