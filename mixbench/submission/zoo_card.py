"""The README.md of an accepted checkpoint, made of its two cards and its records, every word of them shown as text."""

import re

from mixbench.models import CheckpointCard, ModelSpec
from mixbench.records import EvaluationRecord
from mixbench.statistics import wilson_interval
from mixbench.submission.card import SubmissionCard
from mixbench.submission.markdown import as_text

_PLAIN = re.compile(r"[A-Za-z0-9 ._/=:,-]+", re.ASCII)
# What needs no quotes in YAML, such as CC-BY-4.0.
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.+-]{1,39}", re.ASCII)


def zoo_card(
    name: str,
    card: SubmissionCard,
    network: tuple[ModelSpec, CheckpointCard],
    records: tuple[EvaluationRecord, ...],
    *,
    bundle_sha256: str,
) -> str:
    """Return the model card of the accepted submission `name`, with the metadata that the Hugging Face hub reads."""
    spec, stated = network
    clean = stated.clean
    interval = wilson_interval(clean.correct, clean.total)
    rows = {
        "authors": as_text(", ".join(card.authors)),
        "licence": as_text(card.licence),
        "reference": as_text(card.reference),
        "training data": f"{as_text(card.training_data)}; fingerprint `{stated.dataset_fingerprint}`",
        "extra data": as_text(card.extra_data),
        "recipe": as_text(card.recipe),
        "architecture": as_text(f"{spec.architecture.name} ({', '.join(f'{k} {v}' for k, v in spec.args.items())})"),
        "spatial filters": f"{spec.scheme}, filter seed {spec.filter_seed}",
        "parameters": f"{stated.parameters.trained} trained, {stated.parameters.frozen} frozen",
        "input": f"{'x'.join(map(str, stated.image_size))}, pixels in [0, 1], no normalisation",
        "clean accuracy": f"{clean.rate:.2%} ({clean.correct} of {clean.total} test examples; 95% Wilson interval"
        f" {interval.low:.2%} to {interval.high:.2%})",
        "made by": _code(stated.command),
        "weights": f"`model.safetensors`, SHA-256 `{stated.sha256}`",
        "submission": f"verified, bundle `{bundle_sha256}`",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    results = "\n".join(_result(record) for record in records)
    return f"""---
library_name: timm
license: other
license_name: {card.licence.lower() if _PLAIN_NAME.fullmatch(card.licence) else "see-below"}
tags:
- image-classification
- timm
- mixbench
datasets:
- {stated.dataset if _PLAIN_NAME.fullmatch(stated.dataset.replace("_", "-")) else "other"}
metrics:
- accuracy
---
# {name}

A submission; what its authors say of it:

| | |
| --- | --- |
{table}

| attack | threat model | clean | robust, with 95% Wilson interval |
| --- | --- | --- | --- |
{results}
"""


def _code(text: str) -> str:
    return f"`{text}`" if _PLAIN.fullmatch(text) else as_text(text)


def _result(record: EvaluationRecord) -> str:
    robust = record.robust
    interval = wilson_interval(robust.correct, robust.total)
    return (
        f"| {as_text(record.attack.name)} | {record.threat_model.value} | {record.clean.rate:.2%} |"
        f" {robust.rate:.2%} [{interval.low:.2%}, {interval.high:.2%}] |"
    )
