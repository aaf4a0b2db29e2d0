"""What a verification found: a row for each check, and everything needed to repeat it."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from mixbench.records import Provenance, Sha256
from mixbench.submission.markdown import as_text
from mixbench.submission.strict_json import parse_strictly

VERIFICATION_FORMAT = "mixbench.verification/1"
_LONGEST_REASON = 600
_LIMIT = 2**20


class Status(StrEnum):
    """How a check ended; SKIP is a check that needs what another one refused."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


class CheckResult(BaseModel):
    """One row of the table; `reason` is printable ASCII on one line, whatever the submission holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z -]{0,39}$")]
    status: Status
    reason: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,600}$")]


class VerificationReport(BaseModel):
    """The verification record.

    Attributes:
        submission: Its name, or that of its folder where the manifest cannot be read.
        bundle_sha256: Hash of its manifest; None where it cannot be trusted.
        seed: The verification seed; with the bundle hash it gives every random choice.
        full: Whether everything was evaluated again.
        trusted_code: Whether code of the submission was allowed to run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["mixbench.verification/1"] = VERIFICATION_FORMAT
    submission: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,600}$")]
    bundle_sha256: Sha256 | None
    seed: Annotated[int, Field(ge=0)]
    full: bool
    trusted_code: bool
    checks: tuple[CheckResult, ...]
    seconds: Annotated[float, Field(ge=0)]
    provenance: Provenance

    @property
    def passed(self) -> bool:
        """Whether no check failed and none was skipped."""
        return bool(self.checks) and all(row.status in (Status.PASS, Status.WARN) for row in self.checks)

    def to_json(self) -> str:
        """Return the verification record as indented JSON with a final newline."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, content: bytes, *, source: str) -> Self:
        """Return the verification record written in `content`; raises RecordError."""
        return parse_strictly(cls, content, source=source, limit=_LIMIT)

    def to_markdown(self) -> str:
        """Return the table as markdown in which every text of the submission is text."""
        verdict = "passed" if self.passed else "failed"
        rows = "\n".join(f"| {row.check} | {row.status.value} | {as_text(row.reason)} |" for row in self.checks)
        return (
            f"### {as_text(self.submission)}: verification {verdict}\n\n"
            f"| check | result | reason |\n| --- | --- | --- |\n{rows}\n\n"
            f"Bundle `{self.bundle_sha256}`, verification seed {self.seed}, mixbench {self.provenance.mixbench}.\n\n"
        )


def printable(text: str) -> str:
    """Return `text` on one line of ASCII, at most 600 characters; a terminal obeys no part of it."""
    line = " ".join(text.split()).encode("ascii", "backslashreplace").decode()
    visible = "".join(character if " " <= character <= "~" else f"\\x{ord(character):02x}" for character in line)
    return visible if len(visible) <= _LONGEST_REASON else f"{visible[: _LONGEST_REASON - 3]}..."
