import shutil
from pathlib import Path

import pytest

from mixbench.errors import RecordError
from mixbench.store import Store
from mixbench.sweep import RECORDS, RESULTS, columns, results
from tests.sweep.conftest import FGSM, HEAD, L2, RunSweep

NAME = "convmixer_spatial.digits"


def _copied(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "out")
    return tmp_path / "out" / RESULTS / f"{NAME}.json"


@pytest.mark.parametrize(
    ("old", "new"),
    [('"name"', '"nom"'), ("sweep_result/1", "sweep_result/2"), ('"seed": 0', '"seed": "zero"')],
    ids=["key", "version", "value"],
)
def test_an_edited_result_is_refused_by_name(old: str, new: str, trained: Path, tmp_path: Path) -> None:
    path = _copied(trained, tmp_path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(RecordError, match=rf"{NAME}\.json is not a sweep's result"):
        results(tmp_path / "out")


def test_a_result_under_another_name_is_refused(trained: Path, tmp_path: Path) -> None:
    path = _copied(trained, tmp_path)
    path.rename(path.with_name("x.json"))
    with pytest.raises(RecordError, match=rf"x\.json is the result of {NAME}"):
        results(tmp_path / "out")


def test_a_result_of_another_run_is_refused_before_anything_is_trained(
    trained: Path, tmp_path: Path, sweep: RunSweep
) -> None:
    path = _copied(trained, tmp_path)
    before = path.read_bytes()
    text = HEAD.replace("epochs = 1", "epochs = 1000000") + FGSM
    with pytest.raises(RecordError, match=rf"{NAME}\.json is the result of another run than the sweep's .*, 1000000"):
        sweep(text)
    assert path.read_bytes() == before


def test_an_added_evaluation_is_made_without_training(trained: Path, tmp_path: Path, sweep: RunSweep) -> None:
    _copied(trained, tmp_path)
    folder = tmp_path / "out" / NAME
    before = {path.name: (path.read_bytes(), path.stat().st_ino) for path in folder.iterdir()}
    assert [moment.name for moment in sweep(HEAD + FGSM + L2)[1]] == [NAME]
    assert {path.name: (path.read_bytes(), path.stat().st_ino) for path in folder.iterdir()} == before
    (found,) = results(tmp_path / "out")
    assert len(found.records) == 2
    assert sweep(HEAD + FGSM + L2) == (0, [])


def test_a_mean_leaves_out_no_run_whose_record_is_gone(trained: Path) -> None:
    found, records = results(trained), Store(trained / RECORDS).records()
    assert [column.title for column in columns(found, records)] == ["clean", "fgsm Linf 1/10"]
    with pytest.raises(RecordError, match=f"the result of {NAME} names the record {records[0].id}, which is not there"):
        columns(found, ())
