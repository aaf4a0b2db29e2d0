"""Every stored adversarial example judged again: nothing a submitter says of them is believed."""

import numpy as np
import torch

from mixbench.errors import RecordError
from mixbench.evaluation.verification import judge, perturbation_norms
from mixbench.submission.behaviour import Subject
from mixbench.submission.evidence import Evidence
from mixbench.threat_model import ThreatModel

_BOX_TOLERANCE = 1e-6
_NORM_TOLERANCE = 1e-6
BORDERLINE = 1e-4
"""Margins below this may fall on the other side on another device."""


def replay_adversarials(subject: Subject, evidence: Evidence) -> tuple[str, tuple[str, ...]]:
    """Return what was replayed and doubts; raises RecordError for the first claim that does not hold.

    Each image must be finite, in [0, 1], within the radius its row names (in float64, `ThreatModel.tolerance()`
    allowed), have the norm its row says, and be misclassified by the plain float32 network. Only one whose margin is
    below 1e-4 both in the row and here may be classified correctly, and only as often as the record counts borderline
    examples.
    """
    broken = np.flatnonzero(evidence.broken)
    if not len(broken):
        return f"{evidence.title}: no example is claimed to be broken", ()
    record, images = evidence.record, torch.from_numpy(evidence.adversarials.images)
    _refuse(record.id, "are not finite", ~torch.isfinite(images).flatten(1).all(1).numpy())
    outside = ((images < -_BOX_TOLERANCE) | (images > 1 + _BOX_TOLERANCE)).flatten(1).any(1).numpy()
    _refuse(record.id, f"have pixels outside [0, 1] ({float(images.min()):.6g} to {float(images.max()):.6g})", outside)
    _check_norms(subject, evidence, broken)
    verdicts = judge(subject.model, images, subject.labels[broken], micro_batch=subject.micro_batch)
    margins = verdicts.margins.double().numpy()
    told = evidence.table["adversarial_margin"].to_numpy(np.float64, na_value=np.nan)[broken]
    correct = ~verdicts.broken.numpy()
    close = (np.abs(margins) < BORDERLINE) & (np.abs(told) < BORDERLINE)
    _refuse(record.id, "are classified correctly, so they break nothing", correct & ~close)
    flips = int(correct.sum())
    if flips > record.borderline:
        raise RecordError(
            f"record {record.id}: {flips} adversarial images are on the right side by rounding, but the record counts"
            f" {record.borderline} borderline examples: evaluate again"
        )
    doubts = (
        (f"{evidence.title}: {flips} of {len(broken)} are borderline and classified correctly here",) if flips else ()
    )
    return f"{evidence.title}: all {len(broken)} in box and ball, {len(broken) - flips} misclassified", doubts


def _check_norms(subject: Subject, evidence: Evidence, broken: np.ndarray) -> None:
    record = evidence.record
    norm = record.threat_model.norm
    norms = perturbation_norms(torch.from_numpy(evidence.adversarials.images), subject.images[broken], norm).numpy()
    balls = [ThreatModel(norm, eps) for eps in evidence.broken_eps]
    limits = np.array([float(ball.eps) + ball.tolerance() for ball in balls])
    far = ~(norms <= limits)
    largest = float(norms[far].max()) if far.any() else 0.0
    _refuse(record.id, f"are further than eps from their clean image (up to {largest:.6g} in {norm.value})", far)
    told = evidence.table["norm"].to_numpy(np.float64, na_value=np.nan)[broken]
    _refuse(
        record.id, "have another norm than their row says", ~(np.abs(norms - told) <= _NORM_TOLERANCE * (1 + norms))
    )


def _refuse(record_id: str, what: str, wrong: np.ndarray) -> None:
    if wrong.any():
        raise RecordError(
            f"record {record_id}: {int(wrong.sum())} of {len(wrong)} adversarial images {what}: evaluate again"
        )
