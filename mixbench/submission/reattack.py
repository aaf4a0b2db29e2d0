"""A random re-attack whose seed the submitter could not know, and the exact test that judges it.

The hypothesis tested is *the record is one honest run of its attack*. An attack is random, so a fresh run breaks other
examples than the record's; how many, nobody knows beforehand: of the survivors of a single PGD run on a model near
zero robust accuracy a second run breaks up to a half, of those of FGSM none. So the record is compared with `RUNS`
fresh runs, and no rate is assumed.

If the record is an honest run, its verdict on an example and those of the fresh runs are exchangeable. Of the examples
that exactly one of the `RUNS` + 1 verdicts calls robust, that one is then the record's with probability 1 / (`RUNS` +
1), independently from example to example. A record that hides breaks is the odd one far more often. With T such
examples, the record the odd one in X of them, the p-value is P(Binomial(T, 1 / (RUNS + 1)) >= X), exactly.

The test errs on the submitter's side in three ways. The fresh runs may be a part of the attack (of AutoAttack, the
first stage), whose chance p' to break an example is at most the attack's p; then the odds of X to the rest,
(1 - p) p' / (RUNS p (1 - p')), are at most 1 / RUNS. A fresh break counts only if its margin is below -1e-4, so that
no float32 borderline flip of another device does. And survivors and broken examples are drawn in the same proportion.

The test fails below 0.001 / number of records and warns below 0.05 / number of records, so an honest submission passes
with a probability of at least 99.9%, without a warning of at least 95%. At 7 fresh runs, 4 hidden breaks among the
re-attacked survivors of one deterministic record give p = 0.0002.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from scipy import stats

from mixbench.attacks import FAST, Stage
from mixbench.errors import RecordError
from mixbench.evaluation.verification import check_within, judge
from mixbench.submission.behaviour import Subject
from mixbench.submission.evidence import Evidence
from mixbench.submission.protocol import attack_of
from mixbench.submission.replay import BORDERLINE

RUNS = 7
FAIL_BELOW = 0.001
WARN_BELOW = 0.05
SURVIVORS = 256
"""How many claimed survivors of a record are re-attacked, unless everything is."""
_BROKEN_A_SURVIVOR = 2


@dataclass(frozen=True)
class Draw:
    """Where the random choices of one verification come from."""

    bundle_sha256: str
    seed: int

    def derive(self, purpose: str) -> int:
        """Return a seed from 0 to 2**31 - 1 for `purpose`; other bundles and seeds give unrelated ones."""
        text = f"mixbench verification {self.bundle_sha256} {self.seed} {purpose}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True, eq=False)
class Sample:
    """Positions of the re-attacked examples: claimed survivors, and examples claimed to be broken."""

    survivors: Int64[np.ndarray, " survivor"]
    broken: Int64[np.ndarray, " broken"]


@dataclass(frozen=True, eq=False)
class Reattack:
    """What the fresh runs found.

    Attributes:
        odd: Examples that exactly one of all verdicts calls robust.
        hidden: Those of them where this one is the record's.
        p_value: Of the hypothesis that the record is one honest run.
    """

    sample: Sample
    odd: int
    hidden: int
    p_value: float


def choose(evidence: Evidence, draw: Draw, *, survivors: int | None) -> Sample:
    """Return claimed survivors and broken examples in one proportion; everything if `survivors` is None.

    At most `survivors`, and at most twice as many broken ones.
    """
    generator = np.random.Generator(np.random.PCG64(draw.derive(f"sample {evidence.record.id}")))
    robust = np.flatnonzero(evidence.clean_correct & ~evidence.broken)
    broken = np.flatnonzero(evidence.broken)
    if not len(robust):
        return Sample(robust, robust)
    if survivors is None:
        return Sample(robust, broken)
    share = min(1.0, survivors / len(robust), _BROKEN_A_SURVIVOR * survivors / max(1, len(broken)))
    chosen = (generator.choice(side, round(share * len(side)), replace=False) for side in (robust, broken))
    return Sample(*(np.sort(positions) for positions in chosen))


def reattack(subject: Subject, evidence: Evidence, sample: Sample, draw: Draw, *, every_stage: bool) -> Reattack:
    """Return what `RUNS` fresh runs of the record's attack, or of its first stage, say of `sample`."""
    record = evidence.record
    attack = attack_of(record.attack)
    stages = attack.stages if every_stage else attack.stages[:1]
    positions = np.concatenate([sample.survivors, sample.broken])
    # One more verdict "robust" than this, and an example no longer counts: it is not attacked again.
    allowed = np.concatenate([np.zeros_like(sample.survivors), np.ones_like(sample.broken)])
    robust_verdicts = np.zeros_like(positions)
    for run in range(RUNS):
        active = np.flatnonzero(robust_verdicts <= allowed)
        seed = draw.derive(f"run {run} of {record.id}")
        robust_verdicts[active] += ~attacked(subject, evidence, positions[active], stages, seed=seed)
    split = len(sample.survivors)
    return compare_runs(sample, by_survivor=robust_verdicts[:split], by_broken=robust_verdicts[split:])


def compare_runs(
    sample: Sample, *, by_survivor: Int64[np.ndarray, " survivor"], by_broken: Int64[np.ndarray, " broken"]
) -> Reattack:
    """Return the test, given how many of the fresh runs call each example robust (2 may stand for more)."""
    hidden = int((by_survivor == 0).sum())
    odd = hidden + int((by_broken == 1).sum())
    p_value = float(stats.binomtest(hidden, odd, 1 / (RUNS + 1), alternative="greater").pvalue) if odd else 1.0
    return Reattack(sample, odd, hidden, p_value)


def attacked(
    subject: Subject,
    evidence: Evidence,
    positions: Int64[np.ndarray, " attacked"],
    stages: tuple[Stage, ...],
    *,
    seed: int,
) -> Bool[np.ndarray, " attacked"]:
    """Return which of the examples at `positions` the stages break, one after the other, by more than rounding."""
    threat_model = evidence.record.threat_model.value
    engine = subject.engine if evidence.record.attack.engine == FAST else None
    broken = np.zeros(len(positions), dtype=bool)
    for stage in stages:
        left = np.flatnonzero(~broken)
        if not len(left):
            break
        chosen = torch.from_numpy(positions[left])
        images, labels = subject.images[chosen], subject.labels[chosen]
        metered = subject.metered(images, engine=engine)
        found = stage.perturb(metered, images.clone(), labels.clone(), threat_model, seed=seed).detach()
        check_within(found, images, threat_model, attack=stage.name)
        margins = judge(subject.model, found, labels, micro_batch=subject.micro_batch).margins
        broken[left] = margins.numpy() < -BORDERLINE
    return broken


def judge_reattack(evidence: Evidence, found: Reattack, *, records: int) -> tuple[str, tuple[str, ...]]:
    """Return what was found and doubts; raises RecordError if it contradicts an honest run."""
    sample = found.sample
    numbers = (
        f"{evidence.title}: {RUNS} fresh runs on {len(sample.survivors)} claimed survivors and {len(sample.broken)}"
        f" broken examples; {found.odd} are called robust by one run alone, {found.hidden} of them by the record"
        f" (p = {found.p_value:.2g})"
    )
    if found.p_value < FAIL_BELOW / records:
        raise RecordError(
            f"{numbers}: the record leaves out breaks that its attack finds, so evaluate again with the whole budget"
        )
    return numbers, (numbers,) if found.p_value < WARN_BELOW / records else ()
