"""The exact test behind the re-attack: what it lets pass, what it catches, and how often it is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from mixbench.errors import RecordError
from mixbench.submission import Status
from mixbench.submission.reattack import (
    FAIL_BELOW,
    RUNS,
    Draw,
    Reattack,
    Sample,
    choose,
    compare_runs,
    reattack,
)
from mixbench.submission.reevaluation import reevaluate
from tests.submission.conftest import Claims, Opened, Verify
from tests.submission.forging import copied, hide_breaks, read_table, record_folder, seal_record, write_table

_NOBODY = np.empty(0, dtype=np.int64)


def simulate(
    generator: np.random.Generator, record_chance: np.ndarray, fresh_chance: np.ndarray, *, hidden: int = 0
) -> Reattack:
    """One record and `RUNS` fresh runs on examples that each run breaks by chance; then breaks are hidden."""
    broken = generator.random(len(record_chance)) < record_chance
    broken[np.flatnonzero(broken)[:hidden]] = False
    robust = (generator.random((RUNS, len(fresh_chance))) >= fresh_chance).sum(0)
    sample = Sample(np.flatnonzero(~broken), np.flatnonzero(broken))
    return compare_runs(sample, by_survivor=robust[~broken], by_broken=robust[broken])


@pytest.mark.parametrize("strength", [1.0, 0.7], ids=["the same attack", "a weaker part of it"])
@pytest.mark.parametrize(
    "spread", [(0.3, 0.3), (2.0, 2.0), (20.0, 1.0)], ids=["decided", "ambivalent", "nearly broken"]
)
def test_an_honest_record_fails_as_rarely_as_promised(spread: tuple[float, float], strength: float) -> None:
    """However ambivalent the examples are: the p-value is below any level at most that often."""
    generator, trials = np.random.default_rng(0), 3000
    p_values = np.empty(trials)
    for trial in range(trials):
        chance = generator.beta(*spread, size=100)
        p_values[trial] = simulate(generator, chance, strength * chance).p_value
    for level in (0.2, 0.05, FAIL_BELOW):
        slack = 3 * np.sqrt(level * (1 - level) / trials) + 1 / trials
        assert (p_values < level).mean() <= level + slack


@pytest.mark.parametrize(("hidden", "fails"), [(3, False), (4, True), (20, True)])
def test_hidden_breaks_of_an_attack_without_chance(hidden: int, fails: bool) -> None:  # noqa: FBT001 - a table's column
    chance = np.repeat([1.0, 0.0], [200, 150])
    found = simulate(np.random.default_rng(0), chance, chance, hidden=hidden)
    assert (found.odd, found.hidden) == (hidden, hidden)
    assert found.p_value == pytest.approx((RUNS + 1.0) ** -hidden)
    assert (found.p_value < FAIL_BELOW) is fails


def test_hidden_breaks_of_a_random_attack_are_mostly_found() -> None:
    """Of 300 breaks 12 are hidden, while 60 examples break by chance in every run: caught in at least 9 of 10."""
    generator, caught = np.random.default_rng(0), 0
    for _ in range(200):
        chance = np.concatenate([np.ones(300), np.zeros(100), generator.beta(1, 1, size=60)])
        caught += simulate(generator, chance, chance, hidden=12).p_value < FAIL_BELOW
    assert caught >= 180


def test_nothing_odd_is_nothing_suspicious() -> None:
    found = compare_runs(Sample(_NOBODY, _NOBODY), by_survivor=np.full(9, 2), by_broken=np.zeros(9, dtype=np.int64))
    assert (found.odd, found.hidden, found.p_value) == (0, 0, 1.0)


def test_draws_are_repeatable_and_unrelated() -> None:
    draw = Draw("0" * 64, 1)
    assert draw.derive("a") == Draw("0" * 64, 1).derive("a")
    others = {draw.derive("b"), Draw("1" * 64, 1).derive("a"), Draw("0" * 64, 2).derive("a")}
    assert draw.derive("a") not in others
    assert len(others) == 3
    assert all(0 <= value < 2**31 for value in others)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_record_that_hides_two_percent_of_its_breaks(
    seed: int, honest_fgsm: Path, tmp_path: Path, check: Verify
) -> None:
    """Nothing but the re-attack sees it: every hash, count and adversarial image fits."""
    folder = copied(honest_fgsm, tmp_path)
    broken = np.flatnonzero(read_table(folder)["broken"])
    hidden = round(0.02 * len(broken))
    hide_breaks(folder, np.random.default_rng(seed).choice(broken, hidden, replace=False))
    report = check(folder, seed=seed)
    failed = {row.check: row.reason for row in report.checks if row.status is Status.FAIL}
    assert list(failed) == ["re-attack"]
    assert f"{hidden} of them by the record (p = 0.00024" in failed["re-attack"]


def test_a_single_step_dressed_as_many(honest_fgsm: Path, honest: Path, tmp_path: Path, check: Verify) -> None:
    """The robust accuracy of FGSM under the name of PGD, with PGD's parameters and pass counts."""
    folder = copied(honest_fgsm, tmp_path)
    pgd = json.loads((record_folder(honest) / "record.json").read_text())
    spent = read_table(honest)[["forwards", "backwards"]].max()
    table = read_table(folder)
    table["broken_by"] = table["broken_by"].replace("fgsm", "pgd")
    for name in ("forwards", "backwards"):
        table[name] = int(spent[name])
    content = json.loads((record_folder(folder) / "record.json").read_text())
    content["attack"], content["broken_by"] = pgd["attack"], {"pgd": 0}
    seal_record_with_counts(folder, content, table)
    report = check(folder)
    failed = {row.check: row.reason for row in report.checks if row.status is Status.FAIL}
    assert list(failed) == ["re-attack"]
    assert "leaves out breaks that its attack finds" in failed["re-attack"]


def seal_record_with_counts(folder: Path, content: dict[str, object], table: object) -> None:
    (record_folder(folder) / "record.json").write_text(json.dumps(content))
    write_table(folder, table)  # type: ignore[arg-type]


def test_an_honest_random_record_passes_under_many_seeds(honest: Path, opened: Opened) -> None:
    claims = opened(honest)
    found = [run_reattack(claims, Draw("0" * 64, seed)) for seed in range(3)]
    assert all(result.p_value > FAIL_BELOW for result in found)
    assert len({result.odd for result in found}) > 1
    again = run_reattack(claims, Draw("0" * 64, 0))
    assert (again.odd, again.hidden) == (found[0].odd, found[0].hidden)


def run_reattack(claims: Claims, draw: Draw) -> Reattack:
    sample = choose(claims.evidence, draw, survivors=256)
    return reattack(claims.subject, claims.evidence, sample, draw, every_stage=False)


@pytest.mark.parametrize(("survivors", "chosen"), [(256, (144, 207)), (60, (60, 86)), (None, (144, 207)), (1, (1, 1))])
def test_survivors_and_broken_examples_are_drawn_in_one_proportion(
    survivors: int | None, chosen: tuple[int, int], honest_fgsm: Path, opened: Opened
) -> None:
    evidence = opened(honest_fgsm).evidence
    sample = choose(evidence, Draw("0" * 64, 0), survivors=survivors)
    assert (len(sample.survivors), len(sample.broken)) == chosen
    assert not evidence.broken[sample.survivors].any()
    assert evidence.clean_correct[sample.survivors].all()
    assert evidence.broken[sample.broken].all()


def test_everything_evaluated_again(toppled: Path, honest: Path, opened: Opened, check: Verify) -> None:
    report = check(toppled, full=True)
    assert report.passed, report.to_markdown()
    assert (report.checks[-1].check, report.checks[-1].status) == ("re-evaluation", Status.PASS)
    assert "pgd at Linf 1/2: 0 of 24 robust here, 0 in the record" in report.checks[-1].reason
    claims = opened(honest)
    said = reevaluate(claims.loaded, claims.examples, claims.evidence, records=1)
    assert said == ("pgd at Linf 1/10: 8 of 48 robust here, 8 in the record", ())


def test_hidden_breaks_are_named_when_everything_is_evaluated_again(
    honest: Path, tmp_path: Path, opened: Opened
) -> None:
    folder = copied(honest, tmp_path)
    broken = np.flatnonzero(read_table(folder)["broken"])
    hide_breaks(folder, broken[:2])
    claims = opened(folder)
    _, doubts = reevaluate(claims.loaded, claims.examples, claims.evidence, records=1)
    assert doubts == ("pgd at Linf 1/10: 2 verdicts differ",)
    hide_breaks(folder, broken[2:14])
    claims = opened(folder)
    with pytest.raises(RecordError, match="14 examples are broken here alone"):
        reevaluate(claims.loaded, claims.examples, claims.evidence, records=1)


def test_seal_keeps_what_it_seals(honest: Path, tmp_path: Path) -> None:
    folder = copied(honest, tmp_path)
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    seal_record(folder, json.loads((record_folder(folder) / "record.json").read_text()))
    after = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after[path]} <= {
        record_folder(folder).relative_to(folder) / "record.json",
        Path("submission.json"),
    }
