"""What the submitter says: who made the model, under which licence, from what and how."""

import importlib.metadata
import platform
import re
import unicodedata
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from mixbench.submission.manifest import CARD_NAME, ENVIRONMENT_NAME, size_limit
from mixbench.submission.strict_json import parse_strictly

CARD_FORMAT = "mixbench.submission_card/1"
ENVIRONMENT_FORMAT = "mixbench.environment/1"
UNPUBLISHED = "unpublished"
# Control and format characters, private and unassigned ones: they reorder, hide or forge what a reader sees.
_INVISIBLE = frozenset({"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"})
# A requirement without an environment marker, up to its version.
_REQUIRED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?=[^;]*$)")
_MARKUP = re.compile(r"[<>]|javascript:|data:", re.IGNORECASE)


def check_visible(text: str) -> str:
    """Return `text`; raises ValueError if it holds characters that are not seen, or nothing else."""
    check_no_invisible(text)
    if not text.strip() or text != unicodedata.normalize("NFC", text):
        raise ValueError("is empty or not in Unicode's NFC form")
    return text


def check_no_invisible(text: str, *, allowed: str = "") -> None:
    """Raise ValueError naming the first character of `text` that is not seen and not among the `allowed`."""
    odd = next((char for char in text if unicodedata.category(char) in _INVISIBLE and char not in allowed), None)
    if odd is not None:
        raise ValueError(f"holds the invisible character U+{ord(odd):04X}")


def _reference(text: str) -> str:
    if text != UNPUBLISHED and not re.fullmatch(r"https://[A-Za-z0-9.-]+(/[A-Za-z0-9._~%+,;=:@/?&#()-]*)?", text):
        raise ValueError(f"is neither an https:// address nor the word {UNPUBLISHED}")
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(check_visible)]


class SubmissionCard(BaseModel):
    """The fields that every submission must fill in.

    Attributes:
        authors: Names, one each.
        licence: Of weights and card, such as "MIT" or "CC-BY-4.0".
        training_data: What the weights were trained on.
        recipe: How they were trained.
        extra_data: Any data beside the training split, generated or pretraining data included; "none" where none.
        reference: An https:// address that describes the model, or "unpublished".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["mixbench.submission_card/1"] = CARD_FORMAT
    authors: Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)]
    licence: Text
    training_data: Text
    recipe: Text
    extra_data: Text
    reference: Annotated[Text, AfterValidator(_reference)]

    @property
    def texts(self) -> tuple[str, ...]:
        """Everything that a reader of the card sees."""
        return (*self.authors, self.licence, self.training_data, self.recipe, self.extra_data, self.reference)

    @property
    def holds_markup(self) -> bool:
        """Whether some text would be more than text in a page that did not escape it."""
        return any(_MARKUP.search(text) for text in self.texts)

    def to_bytes(self) -> bytes:
        """Return the card as indented JSON with a final newline."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, *, source: str = CARD_NAME) -> Self:
        """Return the card written in `content`; raises RecordError that names the first field at fault."""
        return parse_strictly(cls, content, source=source, limit=size_limit(CARD_NAME) or 0)


class Environment(BaseModel):
    """Where the submission was packed: Python, operating system, and the versions of what mixbench builds on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["mixbench.environment/1"] = ENVIRONMENT_FORMAT
    python: Text
    platform: Text
    packages: Annotated[dict[Text, Text], Field(max_length=200)]

    @classmethod
    def collect(cls) -> Self:
        """Return the environment of this process."""
        required = (_REQUIRED.match(text) for text in importlib.metadata.requires("mixbench") or ())
        names = sorted({"mixbench", *(found[0] for found in required if found)})
        return cls(
            python=platform.python_version(),
            platform=platform.platform(),
            packages={name: importlib.metadata.version(name) for name in names},
        )

    def to_bytes(self) -> bytes:
        """Return the environment as indented JSON with a final newline."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, *, source: str = ENVIRONMENT_NAME) -> Self:
        """Return the environment written in `content`; raises RecordError."""
        return parse_strictly(cls, content, source=source, limit=size_limit(ENVIRONMENT_NAME) or 0)
