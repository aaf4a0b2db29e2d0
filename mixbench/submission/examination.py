"""Checks run one after the other, each noted with how it ended."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mixbench.errors import DatasetError, MixbenchError
from mixbench.submission.report import CheckResult, Status, printable

_SHOWN = 3

T = TypeVar("T")
CheckCallback = Callable[[str], None]
"""Called with the name of each check before it runs."""
Said = tuple[str, tuple[str, ...]]
"""What a check found, and its doubts, which make it a warning."""


class Examination:
    """The results so far; `private` is a folder of ours, whose name no reason shows."""

    def __init__(self, progress: CheckCallback | None, *, private: Path) -> None:
        self.results: list[CheckResult] = []
        self._private = f"{private}/"
        self._progress = progress

    def run(
        self,
        check: str,
        examine: Callable[..., T],
        *needs: object,
        say: Callable[[T], str | Said],
        while_sound: bool = False,
    ) -> T | None:
        """Return what `examine` makes of `needs`; None, and noted, if that fails or if one of them is None.

        `say` puts the value into words. With `while_sound` the check is skipped after any failure: it would cost
        minutes, or use what is known to be false.
        """
        failed = any(result.status is Status.FAIL for result in self.results)
        if any(need is None for need in needs) or (while_sound and failed):
            self.skip(check)
            return None
        if self._progress is not None:
            self._progress(check)
        try:
            value = examine(*needs)
            said = say(value)
        except DatasetError:
            # The data is not here, which is not the submission's fault.
            raise
        except MixbenchError as error:
            self._note(check, Status.FAIL, str(error))
            return None
        except Exception as error:  # noqa: BLE001 - whatever a hostile file makes a library raise, it has failed
            self._note(check, Status.FAIL, f"raised {type(error).__name__}: {error}")
            return None
        reason, doubts = (said, ()) if isinstance(said, str) else said
        self._note(check, Status.WARN if doubts else Status.PASS, "; ".join(doubts) or reason)
        return value

    def skip(self, check: str) -> None:
        """Note a check that was not run."""
        self._note(check, Status.SKIP, "not run, because of what failed above")

    def _note(self, check: str, status: Status, reason: str) -> None:
        shown = printable(reason.replace(self._private, ""))
        self.results.append(CheckResult(check=check, status=status, reason=shown or "-"))


def merged(said: list[Said]) -> Said:
    """Return several findings as one: every doubt, and the first few reasons."""
    reasons = [reason for reason, _ in said]
    more = f"; and {len(reasons) - _SHOWN} more records like these" if len(reasons) > _SHOWN else ""
    return "; ".join(reasons[:_SHOWN]) + more, tuple(doubt for _, doubts in said for doubt in doubts)
