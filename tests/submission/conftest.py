"""An honest submission, made once, and its verification."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mixbench.attacks import Attack, attack_named
from mixbench.datasets import Examples, load_examples
from mixbench.evaluation import evaluate, plan
from mixbench.models import LoadedModel, zoo_folder
from mixbench.submission import (
    DataFolders,
    NetworkFiles,
    Result,
    Scope,
    SubmissionCard,
    VerificationReport,
    pack,
    registered_network,
    submission_name,
    verify,
)
from mixbench.submission.behaviour import Subject
from mixbench.submission.description import Trust, read_description
from mixbench.submission.evidence import Evidence, read_evidence, read_records
from mixbench.submission.intake import list_files, read_manifest, take_in
from mixbench.submission.network import fill
from mixbench.submission.protocol import load_dataset
from mixbench.threat_model import ThreatModel

CARD = SubmissionCard(
    authors=("An Author",),
    licence="MIT",
    training_data="digits, the training split",
    recipe="standard",
    extra_data="none",
    reference="unpublished",
)
Verify = Callable[..., VerificationReport]


@pytest.fixture(scope="session", autouse=True)
def quick_threads() -> Iterator[None]:
    """Tensors this small lose by a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolders:
    return DataFolders(None, tmp_path_factory.mktemp("cache"))


Packer = Callable[..., Path]


@pytest.fixture(scope="session")
def packer(tmp_path_factory: pytest.TempPathFactory, data: DataFolders) -> Packer:
    """Evaluate a network honestly and pack it."""

    def make(network: NetworkFiles, attack: Attack, *, eps: str = "1/10", n: int | None = None) -> Path:
        examples = load_examples("digits", data_dir=None, cache_dir=data.cache_dir, n_examples=n, seed=0)
        loaded: LoadedModel = network.load((1, 8, 8))
        run = plan(loaded, examples, attack, [ThreatModel.parse(f"Linf {eps}")], seed=0)
        evaluations = evaluate(run, workspace=tmp_path_factory.mktemp("workspace"))
        results = [Result.of(evaluation) for evaluation in evaluations]
        return pack(tmp_path_factory.mktemp("packed"), network, results, CARD).folder

    return make


@pytest.fixture(scope="session")
def zoo_network(data: DataFolders) -> NetworkFiles:
    examples = load_examples("digits", data_dir=None, cache_dir=data.cache_dir, seed=0)
    name = submission_name("convmixer_frozen", "honest")
    return registered_network(name, zoo_folder() / "convmixer_frozen.digits", examples, filter_seed=0)


@pytest.fixture(scope="session")
def honest(packer: Packer, zoo_network: NetworkFiles) -> Path:
    """PGD on 48 digits: most are broken, some survive."""
    return packer(zoo_network, attack_named("pgd"), n=48)


@pytest.fixture(scope="session")
def toppled(packer: Packer, zoo_network: NetworkFiles) -> Path:
    """PGD at a radius that no digit survives."""
    return packer(zoo_network, attack_named("pgd"), eps="1/2", n=24)


@pytest.fixture(scope="session")
def honest_fgsm(packer: Packer, zoo_network: NetworkFiles) -> Path:
    """FGSM on all 360 test digits, none of it random."""
    return packer(zoo_network, attack_named("fgsm"))


@pytest.fixture
def check(data: DataFolders) -> Verify:
    """Verify a folder with a fixed seed."""

    def run(folder: Path, *, seed: int = 1, **scope: object) -> VerificationReport:
        return verify(folder, seed=seed, data=data, scope=Scope(**scope))  # type: ignore[arg-type]

    return run


@dataclass(frozen=True, eq=False)
class Claims:
    """A submission opened as far as the re-attack needs it."""

    loaded: LoadedModel
    examples: Examples
    subject: Subject
    evidence: Evidence


Opened = Callable[[Path], Claims]


@pytest.fixture
def opened(data: DataFolders, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Open a submission of one record; its parameters learn nothing meanwhile, as in a verification."""

    def run(folder: Path) -> Claims:
        listing = list_files(folder)
        intake = take_in(listing, read_manifest(listing), tmp_path_factory.mktemp("intake"))
        records = read_records(intake)
        (evidence,) = read_evidence(intake, records)
        examples = load_dataset(records, data)
        loaded = fill(intake, read_description(intake, Trust(code=False)), (1, 8, 8))
        loaded.module.requires_grad_(False)
        return Claims(loaded, examples, Subject(loaded, examples), evidence)

    return run


@pytest.fixture(scope="session")
def report(honest: Path, data: DataFolders) -> VerificationReport:
    """What is found of the honest submission."""
    return verify(honest, seed=1, data=data)
