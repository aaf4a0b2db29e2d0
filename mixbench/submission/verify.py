"""Verification: a stranger's folder in, a table of checks out."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from mixbench.datasets import Examples
from mixbench.errors import AttackViolationError, DatasetError, InvalidInputError, MixbenchError, RecordError
from mixbench.evaluation.model_checks import ready_for_attack
from mixbench.models import LoadedModel
from mixbench.records import Provenance
from mixbench.submission import behaviour
from mixbench.submission.card import Environment, SubmissionCard
from mixbench.submission.evidence import Evidence, read_evidence, read_records
from mixbench.submission.intake import Intake, list_files, read_manifest, take_in
from mixbench.submission.manifest import CARD_NAME, ENVIRONMENT_NAME
from mixbench.submission.masking import check_masking, most_telling
from mixbench.submission.network import Trust, check_weights, fill, prove_checkpoint, prove_frozen, read_description
from mixbench.submission.protocol import DataFolders, check_protocol, check_table, load_dataset
from mixbench.submission.reattack import SURVIVORS, Draw, choose, judge_reattack, reattack
from mixbench.submission.reevaluation import reevaluate
from mixbench.submission.replay import replay_adversarials
from mixbench.submission.report import CheckResult, Status, VerificationReport, printable

T = TypeVar("T")
CheckCallback = Callable[[str], None]
"""Called with the name of each check before it runs."""
Said = tuple[str, tuple[str, ...]]
"""What a check found, and its doubts."""


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
    examination = _Examination(progress)
    provenance, started = Provenance.collect(device="cpu"), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mixbench-verify-") as into:
        intake = _examine(examination, folder, Path(into), seed=seed, data=data, scope=chosen)
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


class _Examination:
    """Runs checks in order and notes how each ended."""

    def __init__(self, progress: CheckCallback | None) -> None:
        self.results: list[CheckResult] = []
        self._progress = progress

    @property
    def failed(self) -> bool:
        return any(result.status is Status.FAIL for result in self.results)

    def run(self, check: str, examine: Callable[..., T], *needs: object, say: Callable[[T], str | Said]) -> T | None:
        """Return what `examine` makes of `needs`, or None, noted as failed, or as skipped where a need is None."""
        if any(need is None for need in needs):
            self._note(check, Status.SKIP, "not looked at: it needs what failed above")
            return None
        if self._progress is not None:
            self._progress(check)
        try:
            value = examine(*needs)
            said = say(value)
        except (DatasetError, AttackViolationError):
            # The data is not here, or an attack is wrong: neither is the submission's fault.
            raise
        except MixbenchError as error:
            self._note(check, Status.FAIL, str(error))
            return None
        except Exception as error:  # noqa: BLE001 - whatever a hostile file makes a library raise, it has failed
            self._note(check, Status.FAIL, f"raised {type(error).__name__}: {error}")
            return None
        reason, doubts = (said, ()) if isinstance(said, str) else said
        self._note(check, Status.WARN if doubts else Status.PASS, "; ".join(doubts) or reason)
        return value

    def _note(self, check: str, status: Status, reason: str) -> None:
        self.results.append(CheckResult(check=check, status=status, reason=printable(reason) or "-"))


def _examine(
    examination: _Examination, folder: Path, into: Path, *, seed: int, data: DataFolders, scope: Scope
) -> Intake | None:
    """Run every check; return the submission if its files can be trusted to be those of its manifest."""
    run = examination.run
    listing = run(
        "files",
        list_files,
        folder,
        say=lambda value: f"{len(value.sizes)} files, {sum(value.sizes.values())} bytes, no links",
    )
    manifest = run(
        "manifest", read_manifest, listing, say=lambda value: f"{value.name}, packed by mixbench {value.mixbench}"
    )
    intake = run(
        "hashes", partial(take_in, into=into), listing, manifest, say=lambda value: f"bundle {value.bundle_sha256}"
    )
    run("card", _read_card, intake, say=_describe_card)
    run(
        "environment",
        _read_environment,
        intake,
        say=lambda value: f"Python {value.python}, {len(value.packages)} packages",
    )
    described = run(
        "config", partial(read_description, trust=Trust(code=scope.trust_code)), intake, say=_describe_network
    )
    records = run("records", read_records, intake, say=lambda value: f"{len(value)} records of this model")
    evidences = run("examples", read_evidence, intake, records, say=lambda value: "each table agrees with its record")
    examples = run(
        "dataset", partial(load_dataset, folders=data), records, say=lambda value: f"{value!r}, fingerprint known"
    )
    run("labels", _check_tables, evidences, examples, say=str)
    run("protocol", _check_protocols, evidences, examples, say=_said)
    run("weights", check_weights, intake, described, say=str)
    sound = None if examination.failed else True
    loaded = run(
        "build",
        _fill,
        intake,
        described,
        examples,
        sound,
        say=lambda value: (
            f"{value.identity.parameters.trained} trained and {value.identity.parameters.frozen} frozen parameters"
        ),
    )
    run("frozen", prove_frozen, loaded, described, say=str)
    run("checkpoint", prove_checkpoint, intake, loaded, described, say=str)
    run("identity", _check_identities, loaded, records, say=str)
    if loaded is not None and examples is not None and evidences is not None and intake is not None:
        with ready_for_attack(loaded.module, torch.device("cpu")):
            subject = behaviour.Subject(loaded, examples)
            _examine_network(examination, subject, evidences)
            _examine_claims(examination, subject, evidences, Draw(intake.bundle_sha256, seed), scope)
        if scope.full:
            sound = None if examination.failed else True
            run("re-evaluation", _reevaluate_all, loaded, examples, evidences, sound, say=_said)
    else:
        for check in (*_NETWORK_CHECKS, *_CLAIM_CHECKS, *(("re-evaluation",) if scope.full else ())):
            run(check, str, None, say=str)
    return intake


_NETWORK_CHECKS: dict[str, Callable[[behaviour.Subject], str | Said]] = {
    "logits": behaviour.check_logits,
    "eval mode": behaviour.check_eval_mode,
    "determinism": behaviour.check_determinism,
    "input range": behaviour.check_input_range,
    "gradients": behaviour.check_gradients,
}
_CLAIM_CHECKS = ("clean accuracy", "adversarials", "re-attack", "masking")


def _examine_network(examination: _Examination, subject: behaviour.Subject, evidences: tuple[Evidence, ...]) -> None:
    del evidences
    for check, examine in _NETWORK_CHECKS.items():
        examination.run(check, examine, subject, say=_said)


def _examine_claims(
    examination: _Examination,
    subject: behaviour.Subject,
    evidences: tuple[Evidence, ...],
    draw: Draw,
    scope: Scope,
) -> None:
    run = examination.run
    run("clean accuracy", _replay_clean, subject, evidences, say=str)
    run("adversarials", _replay_adversarials, subject, evidences, say=_said)
    # An attack on a network that failed already would cost minutes and say nothing new.
    sound = None if examination.failed else True
    run("re-attack", partial(_reattack_all, draw=draw, scope=scope), subject, evidences, sound, say=_said)
    run("masking", partial(_check_masking, draw=draw, scope=scope), subject, evidences, sound, say=_said)


def _said(value: str | Said) -> str | Said:
    return value


def _read_card(intake: Intake) -> SubmissionCard:
    return SubmissionCard.from_bytes(intake.read(CARD_NAME))


def _describe_card(card: SubmissionCard) -> Said:
    doubts = ("some field holds markup; pages show it as text, letter by letter",) if card.holds_markup else ()
    return f"all fields are filled in; {len(card.authors)} authors, licence {card.licence}", doubts


def _read_environment(intake: Intake) -> Environment:
    return Environment.from_bytes(intake.read(ENVIRONMENT_NAME))


def _describe_network(described: object) -> Said:
    from mixbench.submission.network import ForeignCode

    if isinstance(described, ForeignCode):
        return "", ("the network is code of the submission, run because you trust it",)
    return "a registered architecture; config.json is what mixbench writes for it", ()


def _fill(intake: Intake, described: object, examples: Examples, sound: bool) -> LoadedModel:
    del sound
    channels, height, width = examples.images.shape[1:]
    return fill(intake, described, (channels, height, width))


def _check_tables(evidences: tuple[Evidence, ...], examples: Examples) -> str:
    for evidence in evidences:
        check_table(evidence, examples)
    return f"indices and labels are those of {examples.name}"


def _check_protocols(evidences: tuple[Evidence, ...], examples: Examples) -> Said:
    doubts = [doubt for one in evidences for doubt in check_protocol(one, num_classes=examples.num_classes)]
    attacks = sorted({f"{one.record.attack.name} at {one.record.threat_model.value}" for one in evidences})
    return f"known: {', '.join(attacks)}", tuple(dict.fromkeys(doubts))


def _check_identities(loaded: LoadedModel, records: tuple[object, ...]) -> str:
    for record in records:
        if record.model != loaded.identity:
            raise RecordError(
                f"record {record.id} is of the model {record.model}, these weights are {loaded.identity}: evaluate again"
            )
    return f"every record is of these weights ({loaded.identity.sha256[:16]})"


def _replay_clean(subject: behaviour.Subject, evidences: tuple[Evidence, ...]) -> str:
    return [behaviour.replay_clean(subject, evidence) for evidence in evidences][0]


def _replay_adversarials(subject: behaviour.Subject, evidences: tuple[Evidence, ...]) -> Said:
    return _merged([replay_adversarials(subject, evidence) for evidence in evidences])


def _reattack_all(
    subject: behaviour.Subject, evidences: tuple[Evidence, ...], sound: bool, *, draw: Draw, scope: Scope
) -> Said:
    del sound
    said: list[Said] = []
    for evidence in evidences:
        sample = choose(evidence, draw, survivors=None if scope.full else scope.survivors)
        found = reattack(subject, evidence, sample, draw, every_stage=scope.full)
        said.append(judge_reattack(evidence, found, records=len(evidences)))
    return _merged(said)


def _check_masking(
    subject: behaviour.Subject, evidences: tuple[Evidence, ...], sound: bool, *, draw: Draw, scope: Scope
) -> Said:
    del sound
    said: list[Said] = []
    for evidence in most_telling(evidences):
        sample = choose(evidence, draw, survivors=None if scope.full else scope.survivors)
        said.append(check_masking(subject, evidence, sample, draw, full=scope.full))
    return _merged(said) if said else "no record claims a survivor"


def _reevaluate_all(loaded: LoadedModel, examples: Examples, evidences: tuple[Evidence, ...], sound: bool) -> Said:
    del sound
    return _merged([reevaluate(loaded, examples, evidence, records=len(evidences)) for evidence in evidences])


def _merged(said: list[Said]) -> Said:
    return "; ".join(reason for reason, _ in said), tuple(doubt for _, doubts in said for doubt in doubts)
