"""Submissions: packed by whoever trained a model, verified by whoever has no reason to believe them, accepted.

::

    submission = pack(folder, network, results, card)
    report = verify(submission.folder, seed=seed, data=DataFolders(None, cache))
    accept(submission.folder, report, Path("."), rebuild=rebuild)

A submission is one folder: `submission.json` (the manifest, with the hash of every file), `card.json`, `config.json`
and `model.safetensors` (a checkpoint as timm reads it), `environment.json`, and for each record
`records/<id>/record.json`, `examples.parquet` and `adversarials.safetensors.xz`.
"""

from mixbench.submission.acceptance import Accepted, accept
from mixbench.submission.card import UNPUBLISHED, Environment, SubmissionCard
from mixbench.submission.examination import CheckCallback
from mixbench.submission.manifest import ListedFile, Manifest, bundle_hash
from mixbench.submission.network_files import (
    NetworkFiles,
    foreign_network,
    registered_network,
    submission_name,
)
from mixbench.submission.pack import Submission, pack
from mixbench.submission.protocol import DataFolders
from mixbench.submission.reattack import SURVIVORS
from mixbench.submission.report import CheckResult, Status, VerificationReport
from mixbench.submission.results import Result
from mixbench.submission.verify import Scope, verify

__all__ = [
    "SURVIVORS",
    "UNPUBLISHED",
    "Accepted",
    "CheckCallback",
    "CheckResult",
    "DataFolders",
    "Environment",
    "ListedFile",
    "Manifest",
    "NetworkFiles",
    "Result",
    "Scope",
    "Status",
    "Submission",
    "SubmissionCard",
    "VerificationReport",
    "accept",
    "bundle_hash",
    "foreign_network",
    "pack",
    "registered_network",
    "submission_name",
    "verify",
]
