"""Evaluations as a submission takes them: record, per-example file and adversarial images."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mixbench.errors import RecordError
from mixbench.evaluation import Evaluation
from mixbench.records import EvaluationRecord, ModelIdentity
from mixbench.store import ADVERSARIALS_NAME, EXAMPLES_NAME, load_record


@dataclass(frozen=True, eq=False)
class Result:
    """A record with its per-example file and its adversarial images, both as they lie in a store."""

    record: EvaluationRecord
    examples: bytes
    adversarials: bytes

    @classmethod
    def of(cls, evaluation: Evaluation) -> "Result":
        """Return what an evaluation found."""
        adversarials = evaluation.adversarials_bytes()
        digest = hashlib.sha256(adversarials).hexdigest()
        record = evaluation.record.model_copy(update={"adversarials_sha256": digest})
        return cls(record, evaluation.examples, adversarials)

    @classmethod
    def load(cls, folder: Path) -> "Result":
        """Return the record in `folder`, its hashes checked; raises RecordError if it kept no adversarial images."""
        record = load_record(folder)
        base = folder if folder.is_dir() else folder.parent
        if record.adversarials_sha256 is None:
            raise RecordError(
                f"{folder} keeps no adversarial examples: evaluate again with --save-adversarials --overwrite"
            )
        return cls(record, (base / EXAMPLES_NAME).read_bytes(), (base / ADVERSARIALS_NAME).read_bytes())

    def renamed(self, identity: ModelIdentity) -> "Result":
        """Return the result under the submission's name; raises RecordError if it is of other weights."""
        if self.record.model.sha256 != identity.sha256:
            raise RecordError(
                f"record {self.record.id} is of weights {self.record.model.sha256}, the checkpoint has"
                f" {identity.sha256}: evaluate this checkpoint"
            )
        record = self.record.model_copy(update={"model": identity})
        return Result(record, self.examples, self.adversarials)
