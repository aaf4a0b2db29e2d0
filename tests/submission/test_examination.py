"""How checks end, whatever they raise."""

from pathlib import Path

import pytest

from mixbench.errors import AttackViolationError, DatasetError, RecordError
from mixbench.submission import Status
from mixbench.submission.examination import Examination


def raising(error: BaseException) -> object:
    raise error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RecordError("/private/a.b/card.json is odd"), "a.b/card.json is odd"),
        (AttackViolationError("pgd returned images that are not finite"), "pgd returned images that are not finite"),
        (KeyError("x"), "raised KeyError: 'x'"),
        (MemoryError("9 exabytes"), "raised MemoryError: 9 exabytes"),
        (RecursionError("\x1b[31mtoo deep\n\u202e"), "raised RecursionError: \\x1b[31mtoo deep \\u202e"),
    ],
)
def test_a_check_that_raises_has_failed(error: Exception, reason: str) -> None:
    examination = Examination(None, private=Path("/private"))
    assert examination.run("card", lambda: raising(error), say=str) is None
    (row,) = examination.results
    assert (row.check, row.status, row.reason) == ("card", Status.FAIL, reason)


def test_missing_data_and_interruptions_are_passed_on() -> None:
    examination = Examination(None, private=Path("/private"))
    for error in (DatasetError("not here"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            examination.run("dataset", lambda error=error: raising(error), say=str)
    assert examination.results == []


def test_doubts_make_a_warning_and_a_failure_stops_what_costs_time() -> None:
    asked: list[str] = []
    examination = Examination(asked.append, private=Path("/private"))
    assert examination.run("a", lambda: 1, say=lambda _: ("fine", ("but odd",))) == 1
    examination.run("b", lambda: raising(RecordError("no")), say=str)
    assert examination.run("c", lambda need: need, None, say=str) is None
    assert examination.run("d", lambda need: need, 2, say=str) == 2
    assert examination.run("e", lambda need: need, 2, say=str, while_sound=True) is None
    statuses = [Status.WARN, Status.FAIL, Status.SKIP, Status.PASS, Status.SKIP]
    assert [row.status for row in examination.results] == statuses
    assert examination.results[0].reason == "but odd"
    assert asked == ["a", "b", "d"]
