"""The books of a run: what is known of every example, and the records made of it."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64
from safetensors.numpy import save

from mixbench.evaluation.blocks import Block
from mixbench.evaluation.plan import Plan
from mixbench.evaluation.workspace import StageResult
from mixbench.records import Accuracy, Cost, EvaluationRecord, Provenance, ThreatModelField
from mixbench.store import encode_examples

_BORDERLINE = 1e-4


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result for one threat model, ready for the store.

    Attributes:
        record: The evaluation record.
        examples: The per-example table, as parquet.
        indices: Index in the split of each broken example.
        adversarials: The verified adversarial image of each, in [0, 1].
    """

    record: EvaluationRecord
    examples: bytes
    indices: Int64[np.ndarray, " broken"]
    adversarials: Float32[np.ndarray, "broken channel height width"]

    def adversarials_bytes(self) -> bytes:
        """Return indices and adversarial images as safetensors."""
        return save({"index": self.indices, "images": np.ascontiguousarray(self.adversarials)})


class Ledger:
    """Entries by example; an example broken at one radius is broken at every larger one."""

    def __init__(self, plan: Plan) -> None:
        n, radii = len(plan.examples), len(plan.threat_models)
        self._plan = plan
        self._predictions = np.full(n, -1, dtype=np.int64)
        self._margins = np.zeros(n, dtype=np.float32)
        self._seen = np.zeros(n, dtype=bool)
        # The index of the radius at which an example was broken; `radii` while it is robust.
        self._broken_at = np.full(n, radii, dtype=np.int64)
        self._broken_by = np.full(n, "", dtype=object)
        self._adversarial_predictions = np.full(n, -1, dtype=np.int64)
        self._adversarial_margins = np.zeros(n, dtype=np.float32)
        self._norms = np.zeros(n, dtype=np.float64)
        self._adversarials: dict[int, Float32[np.ndarray, "channel height width"]] = {}
        # The clean forward belongs to every radius, so it is entered at the smallest.
        self._forwards = np.zeros((radii, n), dtype=np.int64)
        self._backwards = np.zeros((radii, n), dtype=np.int64)
        stages = ("clean", *(stage.name for stage in plan.attack.stages))
        self._seconds = [dict.fromkeys(stages, 0.0) for _ in range(radii)]
        self._warnings: list[list[str]] = [[] for _ in range(radii)]
        self._peak_memory_bytes = 0

    def enter_clean(
        self,
        block: Block,
        *,
        predictions: Int64[np.ndarray, " example"],
        margins: Float32[np.ndarray, " example"],
        seconds: float,
        peak_memory_bytes: int,
    ) -> None:
        """Enter what the model says of the clean images of a block."""
        here = slice(block.start, block.stop)
        self._predictions[here] = predictions
        self._margins[here] = margins
        self._seen[here] = True
        self._forwards[0, here] += 1
        self._seconds[0]["clean"] += seconds
        self._peak_memory_bytes = max(self._peak_memory_bytes, peak_memory_bytes)

    def enter_stage(self, stage: str, radius: int, result: StageResult) -> None:
        """Enter what a stage did at the radius of that index."""
        found = result.positions[result.broken]
        self._broken_at[found] = radius
        self._broken_by[found] = stage
        self._adversarial_predictions[found] = result.predictions
        self._adversarial_margins[found] = result.margins
        self._norms[found] = result.norms
        self._adversarials.update(zip(found.tolist(), result.adversarials, strict=True))
        self._forwards[radius, result.positions] += result.forwards
        self._backwards[radius, result.positions] += result.backwards
        self._seconds[radius][stage] += result.seconds
        self._warnings[radius].extend(result.warnings)
        self._peak_memory_bytes = max(self._peak_memory_bytes, result.peak_memory_bytes)

    def warn(self, messages: tuple[str, ...]) -> None:
        """Enter doubts about the model itself, which hold at every radius."""
        self._warnings[0].extend(messages)

    def robust_positions(self, block: Block, radius: int) -> Int64[np.ndarray, " robust"]:
        """Return the positions in `block` that are correct and not broken at this radius or a smaller one."""
        return block.start + np.flatnonzero(self._robust(radius)[block.start : block.stop])

    def clean_so_far(self) -> Accuracy | None:
        """Return clean accuracy over the examples seen, None before the first."""
        if not self._seen.any():
            return None
        return Accuracy(correct=int(self._correct.sum()), total=int(self._seen.sum()))

    def robust_so_far(self, radius: int) -> Accuracy | None:
        """Return robust accuracy over the examples seen, None before the first; only ever falls within a block."""
        if not self._seen.any():
            return None
        return Accuracy(correct=int((self._robust(radius) & self._seen).sum()), total=int(self._seen.sum()))

    def evaluations(self, provenance: Provenance) -> tuple[Evaluation, ...]:
        """Return the finished books, one evaluation for each threat model."""
        return tuple(self._evaluation(radius, provenance) for radius in range(len(self._plan.threat_models)))

    @property
    def _correct(self) -> Bool[np.ndarray, " example"]:
        return self._seen & (self._predictions == self._plan.examples.labels)

    def _robust(self, radius: int) -> Bool[np.ndarray, " example"]:
        return self._correct & (self._broken_at > radius)

    def _evaluation(self, radius: int, provenance: Provenance) -> Evaluation:
        plan = self._plan
        broken = self._broken_at <= radius
        columns = self._columns(radius, broken)
        examples = encode_examples(columns)
        n = len(plan.examples)
        broken_by = {stage.name: int((self._broken_by[broken] == stage.name).sum()) for stage in plan.attack.stages}
        margins = np.abs(self._margins)
        close = np.where(broken, np.minimum(margins, np.abs(self._adversarial_margins)), margins)
        heard = [message for index in range(radius + 1) for message in self._warnings[index]]
        record = EvaluationRecord(
            model=plan.model.identity,
            dataset=plan.dataset,
            attack=plan.attack_identity,
            threat_model=ThreatModelField.of(plan.threat_models[radius]),
            protocol=plan.protocols[radius],
            clean=Accuracy(correct=int(self._correct.sum()), total=n),
            robust=Accuracy(correct=int(self._robust(radius).sum()), total=n),
            broken_by=broken_by,
            borderline=int((close < _BORDERLINE).sum()),
            warnings=(*_summary(heard), *plan.attack.doubts(broken_by, total=n)),
            cost=self._cost(radius),
            examples_sha256=hashlib.sha256(examples).hexdigest(),
            provenance=provenance,
        )
        positions = np.flatnonzero(broken)
        size = plan.examples.images.shape[1:]
        images = [self._adversarials[position] for position in positions.tolist()]
        return Evaluation(
            record=record,
            examples=examples,
            indices=np.asarray(plan.examples.indices)[positions],
            adversarials=np.stack(images) if images else np.empty((0, *size), dtype=np.float32),
        )

    def _cost(self, radius: int) -> Cost:
        """Return the cost of everything up to this radius."""
        by_stage = {
            stage: round(sum(seconds[stage] for seconds in self._seconds[: radius + 1]), 3)
            for stage in self._seconds[0]
        }
        return Cost(
            forwards=int(self._forwards[: radius + 1].sum()),
            backwards=int(self._backwards[: radius + 1].sum()),
            seconds=round(sum(by_stage.values()), 3),
            seconds_by_stage=by_stage,
            peak_memory_bytes=self._peak_memory_bytes,
        )

    def _columns(self, radius: int, broken: Bool[np.ndarray, " example"]) -> dict[str, np.ndarray]:
        plan = self._plan
        radii = np.array([str(threat_model.eps) for threat_model in plan.threat_models] + [""], dtype=object)

        def where_broken(values: np.ndarray) -> np.ndarray:
            cells = values.astype(object)
            cells[~broken] = None
            return cells

        return {
            "index": np.asarray(plan.examples.indices),
            "label": np.asarray(plan.examples.labels),
            "clean_prediction": self._predictions,
            "margin": self._margins,
            "broken": broken,
            "broken_by": where_broken(self._broken_by),
            "eps": where_broken(radii[self._broken_at]),
            "adversarial_prediction": where_broken(self._adversarial_predictions),
            "adversarial_margin": where_broken(self._adversarial_margins),
            "norm": where_broken(self._norms),
            "forwards": self._forwards[: radius + 1].sum(axis=0),
            "backwards": self._backwards[: radius + 1].sum(axis=0),
        }


def _summary(messages: list[str]) -> tuple[str, ...]:
    """Return each distinct message once; the library repeats itself with other numbers for every batch."""
    groups: dict[str, list[str]] = {}
    for message in messages:
        groups.setdefault(re.sub(r"\d+", "#", message), []).append(message)
    return tuple(group[0] if len(group) == 1 else f"{group[0]} ({len(group)} times)" for group in groups.values())
