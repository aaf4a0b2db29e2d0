import shutil
from pathlib import Path

import pytest

from mixbench.cli.main import main
from mixbench.evaluation import Evaluation
from mixbench.store import Store
from mixbench.sweep import RECORDS, job, results
from tests.sweep.conftest import FGSM, HEAD, L2, RunSweep

NAME = "convmixer_spatial.digits"


def test_records_are_those_of_mixbench_eval(trained: Path, cache: Path, tmp_path: Path) -> None:
    options = ["--attack", "fgsm", "--eps", "1/10", "--n-examples", "20", "--device", "cpu", "--runs", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(["eval", "--model", f"local-dir:{trained / NAME}", *options, "--cache-dir", str(cache)])
    assert ended.value.code in (0, None)
    (alone,) = Store(tmp_path).records()
    (swept,) = Store(trained / RECORDS).records()
    assert swept.without_measurements() == alone.without_measurements()
    assert [result.records for result in results(trained)] == [(alone.id,)]


@pytest.mark.parametrize("broken_off_at", [1, 2])
def test_two_evaluations_by_one_attack_resume_where_they_were(
    broken_off_at: int, trained: Path, tmp_path: Path, sweep: RunSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linf and L2 have workspaces of their own: one that is left behind is not in the way of the other."""
    shutil.copytree(trained / NAME, tmp_path / "out" / NAME)
    evaluate, calls = job.evaluate, []

    def evaluate_and_interrupt(*arguments: object, **options: object) -> tuple[Evaluation, ...]:
        done = evaluate(*arguments, **options)  # pyright: ignore[reportArgumentType]
        calls.append(done[0].record.threat_model.norm)
        if len(calls) == broken_off_at:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(job, "evaluate", evaluate_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep(HEAD + FGSM + L2)
    assert len(list((tmp_path / "out" / ".unfinished").iterdir())) == 1
    assert sweep(HEAD + FGSM + L2)[0] == 0
    # What is in the store is not evaluated again.
    assert calls == {1: ["Linf", "Linf", "L2"], 2: ["Linf", "L2", "L2"]}[broken_off_at]
    assert not (tmp_path / "out" / ".unfinished").exists()
    assert [len(result.records) for result in results(tmp_path / "out")] == [2]
