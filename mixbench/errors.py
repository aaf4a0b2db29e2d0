"""The errors that mixbench raises on purpose.

::

    MixbenchError                  anything a user can mend; exit code 2
     ├── UnknownNameError          a model, attack, dataset, norm or recipe that does not exist
     ├── InvalidInputError         a value, image or model output outside what is accepted
     ├── DatasetError              data that is missing, damaged or not what its name says
     ├── CheckpointError           weights that are missing, damaged or not what their card says
     ├── RecordError               a record or run folder that cannot be read, trusted or written
     └── AttackViolationError      an attack broke its own threat model: a fault of ours; exit code 3

Every message is one sentence that names the value, what was expected and the next step.
"""

import difflib
from collections.abc import Iterable

_LONGEST_LIST = 600


class MixbenchError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line ends with."""

    exit_code = 2


class UnknownNameError(MixbenchError):
    """A name that is in no catalogue; `forms` are other ways to name one, listed but never guessed."""

    def __init__(self, kind: str, name: str, available: Iterable[str], *, forms: Iterable[str] = ()) -> None:
        names = sorted(available)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        guess = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
        listed = ", ".join(names) or "none here"
        if len(listed) > _LONGEST_LIST:
            listed = f"{len(names)} names, too many to list"
        super().__init__(f"unknown {kind} {name!r}: {guess}available: {', '.join([listed, *forms])}")
        self.kind = kind
        self.name = name


class InvalidInputError(MixbenchError):
    """A value, image or model output outside what is accepted."""


class DatasetError(MixbenchError):
    """Data that is missing, damaged or not what its name says."""


class CheckpointError(MixbenchError):
    """Weights that are missing, damaged or not what their card says."""


class RecordError(MixbenchError):
    """A record or run folder that cannot be read, trusted or written."""


class AttackViolationError(MixbenchError):
    """An attack returned images outside its own threat model; never the user's fault."""

    exit_code = 3
