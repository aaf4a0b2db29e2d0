"""Signs of masked gradients: attacks that see less and do better (arXiv 1802.00420)."""

import numpy as np
from scipy import stats

from mixbench.attacks import FGSM
from mixbench.attacks.autoattack import AutoAttackStage
from mixbench.errors import RecordError
from mixbench.submission.behaviour import Subject
from mixbench.submission.evidence import Evidence
from mixbench.submission.reattack import FAIL_BELOW, WARN_BELOW, Draw, Sample, attacked
from mixbench.threat_model import Norm

SQUARE_SURVIVORS = 64
SQUARE_QUERIES = 1000
_ALLOWED_SQUARE_SHARE = 0.1
_SMALLEST_SIDE = 5


def check_masking(
    subject: Subject, evidence: Evidence, sample: Sample, draw: Draw, *, full: bool
) -> tuple[str, tuple[str, ...]]:
    """Return what was found and doubts; raises RecordError at a significant sign of masked gradients.

    Two exact one-sided tests at 0.001, with a warning at 0.05:

    - *A black box beats the white box.* Square (gradient-free) on the survivors that APGD-CE cannot break. On honest
      models it breaks some, up to a fifth where few are left; the hypothesis is at most a tenth of them.
    - *One step beats many.* Of the sampled examples that just one of FGSM and APGD-CE breaks, FGSM breaks at most half.
    """
    record = evidence.record
    searches = {name: (AutoAttackStage(name),) for name in ("apgd-ce", "square")}
    if not full:
        searches["square"] = (AutoAttackStage("square", queries=SQUARE_QUERIES),)
    positions = np.concatenate([sample.survivors, sample.broken])
    seed = draw.derive(f"masking {record.id}")
    generator = np.random.Generator(np.random.PCG64(seed))
    many = attacked(subject, evidence, positions, searches["apgd-ce"], seed=seed)
    left = sample.survivors[~many[: len(sample.survivors)]]
    left = left if full else np.sort(generator.choice(left, min(len(left), SQUARE_SURVIVORS), replace=False))
    found: list[tuple[str, float]] = []
    if min(subject.images.shape[2:]) >= _SMALLEST_SIDE:
        black = int(attacked(subject, evidence, left, searches["square"], seed=seed).sum())
        text = f"Square, which sees no gradient, breaks {black} of {len(left)} examples that APGD-CE cannot"
        found.append((text, _p_value(black, len(left), _ALLOWED_SQUARE_SHARE)))
    if record.threat_model.norm is not Norm.L1:
        one = attacked(subject, evidence, positions, (FGSM(),), seed=seed)
        alone, other = int((one & ~many).sum()), int((many & ~one).sum())
        text = f"FGSM's single step breaks {alone} examples that APGD-CE cannot, APGD-CE {other} that FGSM cannot"
        found.append((text, _p_value(alone, alone + other, 0.5)))
    worst = min(found, key=lambda pair: pair[1], default=("nothing could be compared", 1.0))
    if worst[1] < FAIL_BELOW:
        raise RecordError(
            f"{evidence.title}: {worst[0]} (p = {worst[1]:.2g}): gradients are masked, so robust accuracy is"
            " overestimated"
        )
    doubts = tuple(f"{evidence.title}: {text} (p = {p_value:.2g})" for text, p_value in found if p_value < WARN_BELOW)
    return f"{evidence.title}: {'; '.join(text for text, _ in found)}", doubts


def _p_value(successes: int, n: int, share: float) -> float:
    return float(stats.binomtest(successes, n, share, alternative="greater").pvalue) if n else 1.0


def most_telling(evidences: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    """Return, for each norm, the record with most survivors at the largest eps that has any: masking shows there."""
    chosen: dict[Norm, Evidence] = {}
    for evidence in sorted(evidences, key=lambda one: (one.record.threat_model.eps, one.record.robust.correct)):
        if evidence.record.robust.correct:
            chosen[evidence.record.threat_model.norm] = evidence
    return tuple(chosen.values())
