"""Verification: a stranger's folder in, a table of checks out."""

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from mixbench.datasets import Examples
from mixbench.errors import InvalidInputError, RecordError
from mixbench.evaluation.model_checks import ready_for_attack
from mixbench.models import LoadedModel
from mixbench.records import Accuracy, EvaluationRecord, Provenance
from mixbench.submission.behaviour import CHECKS, Subject, replay_clean
from mixbench.submission.card import Environment, SubmissionCard
from mixbench.submission.description import Described, ForeignCode, Trust, check_weights, read_description
from mixbench.submission.evidence import Evidence, read_evidence, read_records
from mixbench.submission.examination import CheckCallback, Examination, Said, merged
from mixbench.submission.intake import Intake, list_files, read_manifest, take_in
from mixbench.submission.manifest import CARD_NAME, ENVIRONMENT_NAME
from mixbench.submission.masking import check_masking, most_telling
from mixbench.submission.network import fill, prove_checkpoint, prove_frozen
from mixbench.submission.protocol import DataFolders, check_protocol, check_table, load_dataset
from mixbench.submission.reattack import SURVIVORS, Draw, choose, judge_reattack, reattack
from mixbench.submission.reevaluation import reevaluate
from mixbench.submission.replay import replay_adversarials
from mixbench.submission.report import VerificationReport, printable

_CLAIM_CHECKS = ("clean accuracy", "adversarials", "re-attack", "masking")
_FULL_CHECK = "re-evaluation"


@dataclass(frozen=True)
class Scope:
    """How much a verification does.

    Attributes:
        survivors: How many claimed survivors of each record are re-attacked.
        full: Evaluate everything again, and re-attack everything with every stage; `survivors` is then not looked at.
        trust_code: Run code that the submission brings.
    """

    survivors: int = SURVIVORS
    full: bool = False
    trust_code: bool = False

    @property
    def most_survivors(self) -> int | None:
        """How many survivors to choose; None for all."""
        return None if self.full else self.survivors


@dataclass(frozen=True, eq=False)
class _Claims:
    """What can be judged once the network is built: card, records, data, and where random choices come from."""

    stated: Accuracy | None
    evidences: tuple[Evidence, ...]
    examples: Examples
    draw: Draw


def verify(
    folder: Path,
    *,
    seed: int,
    data: DataFolders,
    scope: Scope | None = None,
    progress: CheckCallback | None = None,
) -> VerificationReport:
    """Return what every check says of the submission in `folder`, on the CPU; it is copied first and left as it is.

    `seed` should be one that the submitter could not know: with the hash of the bundle it chooses what is re-attacked
    and how. Nothing that the folder holds makes this raise; raises InvalidInputError if there is no folder, and
    DatasetError if the data it is about is not to be had here.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is no folder: give the folder that mixbench submit wrote")
    chosen = scope or Scope()
    provenance, started = Provenance.collect(device="cpu"), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mixbench-verify-") as into:
        examination = Examination(progress, private=Path(into))
        intake = _take_in(examination, folder, Path(into))
        _examine(examination, intake, seed=seed, data=data, scope=chosen)
    return VerificationReport(
        submission=printable(folder.resolve().name if intake is None else intake.manifest.name) or "-",
        bundle_sha256=None if intake is None else intake.bundle_sha256,
        seed=seed,
        full=chosen.full,
        trusted_code=chosen.trust_code,
        checks=tuple(examination.results),
        seconds=round(time.perf_counter() - started, 3),
        provenance=provenance,
    )


def _take_in(examination: Examination, folder: Path, into: Path) -> Intake | None:
    """Return the submission if its files can be trusted to be those of its manifest."""
    run = examination.run
    listing = run(
        "files",
        list_files,
        folder,
        say=lambda found: f"{len(found.sizes)}, {sum(found.sizes.values())} bytes, no links",
    )
    manifest = run("manifest", read_manifest, listing, say=lambda found: f"{found.name}, by mixbench {found.mixbench}")
    return run(
        "hashes", partial(take_in, into=into), listing, manifest, say=lambda found: f"bundle {found.bundle_sha256}"
    )


def _examine(examination: Examination, intake: Intake | None, *, seed: int, data: DataFolders, scope: Scope) -> None:
    run = examination.run
    run("card", _read_card, intake, say=_describe_card)
    run("environment", _read_environment, intake, say=lambda found: f"Python {found.python} on {found.platform}")
    described = run("config", partial(read_description, trust=Trust(code=scope.trust_code)), intake, say=_describe)
    records = run("records", read_records, intake, say=lambda found: f"{len(found)} of this model")
    evidences = run("examples", read_evidence, intake, records, say=lambda _: "each table agrees with its record")
    examples = run("dataset", partial(load_dataset, folders=data), records, say=lambda found: f"{found!r} is known")
    run("labels", _check_tables, evidences, examples, say=str)
    run("protocol", _check_protocols, evidences, examples, say=_said)
    run("weights", check_weights, intake, described, say=str)
    loaded = run("build", _fill, intake, described, examples, say=_describe_parameters, while_sound=True)
    run("frozen", prove_frozen, loaded, described, say=str)
    run("checkpoint", prove_checkpoint, intake, loaded, described, say=str)
    run("identity", _check_identities, loaded, records, say=str)
    if intake is None or evidences is None or examples is None or loaded is None:
        for check in (*CHECKS, *_CLAIM_CHECKS, *((_FULL_CHECK,) if scope.full else ())):
            examination.skip(check)
        return
    stated = described.card.clean if isinstance(described, Described) else None
    claims = _Claims(stated, evidences, examples, Draw(intake.bundle_sha256, seed))
    _examine_network(examination, loaded, claims, scope)


def _examine_network(examination: Examination, loaded: LoadedModel, claims: _Claims, scope: Scope) -> None:
    run = examination.run
    with ready_for_attack(loaded.module, torch.device("cpu")):
        subject = Subject(loaded, claims.examples)
        for check, examine in CHECKS.items():
            run(check, examine, subject, say=_said)
        run("clean accuracy", _replay_clean, subject, claims, say=_said)
        run("adversarials", _replay_adversarials, subject, claims, say=_said)
        run("re-attack", _reattack, subject, claims, scope, say=_said, while_sound=True)
        run("masking", _check_masking, subject, claims, scope, say=_said, while_sound=True)
    if scope.full:
        run(_FULL_CHECK, _reevaluate, loaded, claims, say=_said, while_sound=True)


def _said(value: str | Said) -> str | Said:
    return value


def _read_card(intake: Intake) -> SubmissionCard:
    return SubmissionCard.from_bytes(intake.read(CARD_NAME))


def _describe_card(card: SubmissionCard) -> Said:
    doubts = ("some field holds markup; pages show it as text, letter by letter",) if card.holds_markup else ()
    return f"all fields are filled in; {len(card.authors)} authors, licence {card.licence}", doubts


def _read_environment(intake: Intake) -> Environment:
    return Environment.from_bytes(intake.read(ENVIRONMENT_NAME))


def _describe(described: Described | ForeignCode) -> Said:
    if isinstance(described, ForeignCode):
        return "", ("the network is code of the submission, run because you trust it",)
    return "a registered architecture; config.json is what mixbench writes for it", ()


def _describe_parameters(loaded: LoadedModel) -> str:
    parameters = loaded.identity.parameters
    return f"{parameters.trained} trained and {parameters.frozen} frozen parameters, all finite"


def _fill(intake: Intake, described: Described | ForeignCode, examples: Examples) -> LoadedModel:
    channels, height, width = examples.images.shape[1:]
    return fill(intake, described, (channels, height, width))


def _check_tables(evidences: tuple[Evidence, ...], examples: Examples) -> str:
    for evidence in evidences:
        check_table(evidence, examples)
    return f"indices and labels are those of {examples.name}"


def _check_protocols(evidences: tuple[Evidence, ...], examples: Examples) -> Said:
    doubts = [doubt for one in evidences for doubt in check_protocol(one, num_classes=examples.num_classes)]
    attacks = sorted({one.title for one in evidences})
    return f"known: {', '.join(attacks)}", tuple(dict.fromkeys(doubts))


def _check_identities(loaded: LoadedModel, records: tuple[EvaluationRecord, ...]) -> str:
    for record in records:
        if record.model != loaded.identity:
            raise RecordError(
                f"record {record.id} is of the model {record.model}, these weights are {loaded.identity}: evaluate them"
            )
    return f"every record is of these weights ({loaded.identity.sha256[:16]})"


def _replay_clean(subject: Subject, claims: _Claims) -> Said:
    # All records are about the same examples, so one of the answers says it all.
    return [replay_clean(subject, evidence, claims.stated) for evidence in claims.evidences][-1]


def _replay_adversarials(subject: Subject, claims: _Claims) -> Said:
    return merged([replay_adversarials(subject, evidence) for evidence in claims.evidences])


def _reattack(subject: Subject, claims: _Claims, scope: Scope) -> Said:
    found: list[tuple[float, Said]] = []
    for evidence in claims.evidences:
        sample = choose(evidence, claims.draw, survivors=scope.most_survivors)
        result = reattack(subject, evidence, sample, claims.draw, every_stage=scope.full)
        found.append((result.p_value, judge_reattack(evidence, result, records=len(claims.evidences))))
    # The least likely first: the others may not be shown.
    return merged([said for _, said in sorted(found, key=lambda pair: pair[0])])


def _check_masking(subject: Subject, claims: _Claims, scope: Scope) -> Said:
    said: list[Said] = []
    for evidence in most_telling(claims.evidences):
        sample = choose(evidence, claims.draw, survivors=scope.most_survivors)
        said.append(check_masking(subject, evidence, sample, claims.draw, full=scope.full))
    return merged(said) if said else ("no record claims a survivor", ())


def _reevaluate(loaded: LoadedModel, claims: _Claims) -> Said:
    records = len(claims.evidences)
    return merged([reevaluate(loaded, claims.examples, evidence, records=records) for evidence in claims.evidences])
