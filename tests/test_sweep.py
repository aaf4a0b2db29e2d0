import shutil
from pathlib import Path

import pytest

from mixbench.errors import InvalidInputError, MixbenchError, RecordError, UnknownNameError
from mixbench.models import load_checkpoint
from mixbench.records import Accuracy
from mixbench.store import Store
from mixbench.sweep import RECORDS, RESULTS, SweepProgress, columns, read_sweep, results, run_sweep
from mixbench.training import Places

GRID = """
[[grid]]
models = ["convmixer_trained", "convmixer_frozen"]
dataset = "digits"
seeds = [0, 1]
epochs = 1
keep_weights = false
[[grid.evaluation]]
attack = "fgsm"
eps = ["1/20", "1/10"]
n_examples = 20
[[grid]]
models = ["convmixer_frozen"]
dataset = "digits"
recipes = ["linf"]
filter_seeds = [3]
epochs = 1
"""
NAMES = {
    "convmixer_trained.digits",
    "convmixer_frozen.digits",
    "convmixer_trained.digits_s1_f0",
    "convmixer_frozen.digits_s1_f0",
    "convmixer_frozen.digits_linf_s0_f3",
}


def _written(folder: Path, text: str) -> Path:
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for decoded digits."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, list[SweepProgress]]:
    """The output of the whole GRID, not to be changed, and what was heard of it."""
    folder, heard = tmp_path_factory.mktemp("sweep"), list[SweepProgress]()
    sweep = read_sweep(_written(folder, GRID))
    failures = run_sweep(sweep, Places(folder / "out", "", None, cache), devices=["cpu"], progress=heard.append)
    assert failures == 0
    return folder / "out", heard


def _run(folder: Path, text: str, output: Path, cache: Path, **options: object) -> tuple[int, list[SweepProgress]]:
    heard: list[SweepProgress] = []
    devices = options.get("devices", ["cpu"])
    assert isinstance(devices, list)
    failures = run_sweep(
        read_sweep(_written(folder, text)),
        Places(output, "", None, cache),
        devices=devices,
        progress=heard.append,
    )
    return failures, heard


def test_every_run_leaves_a_result_under_its_name(finished: tuple[Path, list[SweepProgress]]) -> None:
    output, heard = finished
    found = results(output)
    assert {result.name for result in found} == NAMES == {moment.name for moment in heard}
    assert [(moment.done, moment.total) for moment in heard] == [(n, 5) for n in range(1, 6)]
    for result in found:
        tag = result.name.partition(".")[2]
        assert (result.card.seed, result.card.filter_seed) == (int("_s1" in tag), 3 * int("_f3" in tag))
        assert (result.card.recipe, result.card.epochs) == ("linf" if "linf" in tag else "standard", 1)


def test_adversarial_runs_come_first(finished: tuple[Path, list[SweepProgress]]) -> None:
    assert finished[1][0].name == "convmixer_frozen.digits_linf_s0_f3"


def test_weights_are_kept_where_the_grid_says_so_alone(finished: tuple[Path, list[SweepProgress]]) -> None:
    output, _ = finished
    assert {path.name for path in output.iterdir()} == {"convmixer_frozen.digits_linf_s0_f3", RESULTS, RECORDS}
    card = load_checkpoint(output / "convmixer_frozen.digits_linf_s0_f3").card
    assert [result.card for result in results(output) if "linf" in result.name] == [card]


def test_records_belong_to_the_models_that_were_trained(finished: tuple[Path, list[SweepProgress]]) -> None:
    output, _ = finished
    records = {record.id: record for record in Store(output / RECORDS).records()}
    assert len(records) == 8
    for result in results(output):
        own = [records[name] for name in result.records]
        assert [str(record.threat_model.value) for record in own] == (
            [] if "linf" in result.name else ["Linf 1/20", "Linf 1/10"]
        )
        assert {record.model.sha256 for record in own} <= {result.card.sha256}
        assert {(record.attack.name, record.dataset.n) for record in own} <= {("fgsm", 20)}


def test_what_has_a_result_is_not_done_again(
    finished: tuple[Path, list[SweepProgress]], tmp_path: Path, cache: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished[0], output)
    (output / RESULTS / "convmixer_trained.digits.json").unlink()
    failures, heard = _run(tmp_path, GRID, output, cache)
    assert (failures, [moment.name for moment in heard]) == (0, ["convmixer_trained.digits"])
    assert results(output) == tuple(
        replaced.model_copy(update={"card": replaced.card.model_copy(update={"seconds": seconds})})
        for replaced, seconds in zip(results(finished[0]), [r.card.seconds for r in results(output)], strict=True)
    )


def test_a_checkpoint_that_is_there_is_evaluated_as_it_is(
    finished: tuple[Path, list[SweepProgress]], tmp_path: Path, cache: Path
) -> None:
    output, name = tmp_path / "out", "convmixer_frozen.digits_linf_s0_f3"
    shutil.copytree(finished[0] / name, output / name)
    before = {path.name: path.read_bytes() for path in (output / name).iterdir()}
    failures, heard = _run(tmp_path, GRID[GRID.rindex("[[grid]]") :], output, cache)
    assert (failures, [moment.name for moment in heard]) == (0, [name])
    assert {path.name: path.read_bytes() for path in (output / name).iterdir()} == before


def test_a_folder_of_another_run_fails_its_run_and_no_other(
    finished: tuple[Path, list[SweepProgress]], tmp_path: Path, cache: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished[0] / "convmixer_frozen.digits_linf_s0_f3", output / "convmixer_frozen.digits")
    text = '[[grid]]\nmodels = ["convmixer_frozen", "convmixer_spatial"]\ndataset = "digits"\nepochs = 1\n'
    failures, heard = _run(tmp_path, text, output, cache)
    failed, done = heard
    assert (failures, failed.result, done.failure) == (1, None, None)
    assert failed.failure is not None
    assert "convmixer_frozen.digits holds another run than the sweep's" in failed.failure
    assert "move it away, or choose another --output" in failed.failure
    assert [result.name for result in results(output)] == ["convmixer_spatial.digits"]


@pytest.mark.slow
def test_two_devices_come_to_what_one_does(
    finished: tuple[Path, list[SweepProgress]], tmp_path: Path, cache: Path
) -> None:
    output = tmp_path / "out"
    failures, _ = _run(tmp_path, GRID, output, cache, devices=["cpu", "cpu:0"])
    assert failures == 0
    hashes = {result.name: (result.card.sha256, result.records) for result in results(output)}
    assert hashes == {result.name: (result.card.sha256, result.records) for result in results(finished[0])}


def test_columns_are_clean_first_then_by_attack_and_radius(finished: tuple[Path, list[SweepProgress]]) -> None:
    output, _ = finished
    found, records = results(output), Store(output / RECORDS).records()
    table = columns(found, records)
    assert [column.title for column in table] == ["clean", "fgsm Linf 1/20", "fgsm Linf 1/10"]
    assert [len(column.accuracies) for column in table] == [5, 4, 4]
    assert {result.name: accuracy for result, accuracy in table[0].accuracies} == {
        result.name: result.card.clean for result in found
    }
    for result, accuracy in table[2].accuracies:
        (record,) = (
            record
            for record in records
            if record.model.sha256 == result.card.sha256 and str(record.threat_model.value) == "Linf 1/10"
        )
        assert isinstance(accuracy, Accuracy)
        assert accuracy == record.robust


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": "mixbench.sweep_result/2"}', b"\xff"])
def test_a_result_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / RESULTS).mkdir()
    (tmp_path / RESULTS / "x.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"x\.json is not a sweep's result .*: delete it"):
        results(tmp_path)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        pytest.param("grid = [", InvalidInputError, r"sweep\.toml is not TOML", id="no TOML"),
        pytest.param("", InvalidInputError, r"is not a sweep: grid: Field required", id="empty"),
        pytest.param("grid = []", InvalidInputError, "is not a sweep: grid: .* at least 1 item", id="no grid"),
        pytest.param(
            GRID.replace("seeds = [0, 1]", "seed = [0, 1]"),
            InvalidInputError,
            r"grid\.0\.seed: Extra",
            id="unknown key",
        ),
        pytest.param(GRID.replace("[0, 1]", "[-1]"), InvalidInputError, r"grid\.0\.seeds\.0: .*equal to 0", id="seed"),
        pytest.param(GRID.replace("[0, 1]", "[]"), InvalidInputError, r"grid\.0\.seeds: .*at least 1", id="no seeds"),
        pytest.param(GRID.replace("epochs = 1", "epochs = 0"), InvalidInputError, r"grid\.0\.epochs", id="no epochs"),
        pytest.param(
            GRID.replace("convmixer_trained", "convmixer_traned"), UnknownNameError, "did you mean", id="model"
        ),
        pytest.param(GRID.replace("linf", "lnf"), UnknownNameError, "unknown recipe for digits 'lnf'", id="recipe"),
        pytest.param(GRID.replace('"digits"', '"digit"'), UnknownNameError, "'digit': did you mean", id="dataset"),
        pytest.param(GRID.replace("fgsm", "fgms"), UnknownNameError, "'fgms': did you mean 'fgsm'", id="attack"),
        pytest.param(GRID.replace('"1/20"', '"twenty"'), InvalidInputError, "eps 'twenty' is not a number", id="eps"),
        pytest.param(GRID + GRID, InvalidInputError, "two runs are called convmixer_trained.digits:", id="twice"),
    ],
)
def test_a_fault_is_found_before_anything_is_trained(
    text: str, error: type[MixbenchError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        read_sweep(_written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot read the sweep .*none\.toml \(No such file or directory\)"):
        read_sweep(tmp_path / "none.toml")


def test_the_sweeps_of_this_repository_can_be_run() -> None:
    root = Path(__file__).resolve().parents[1]
    zoo = [run.name for grid in read_sweep(root / "model_zoo" / "zoo.toml").grid for run in grid.runs()]
    assert len(zoo) == 20
    assert set(zoo) <= {path.name for path in (root / "model_zoo").iterdir()}
    seeds = [run for grid in read_sweep(root / "leaderboards" / "sweeps" / "seeds.toml").grid for run in grid.runs()]
    assert len({(run.model, run.seed, run.filter_seed) for run in seeds}) == 18


def test_the_kept_results_of_the_zoo_are_those_of_its_checkpoints() -> None:
    root = Path(__file__).resolve().parents[1]
    found = results(root / "leaderboards" / "sweeps" / "zoo")
    assert len(found) == 20
    for result in found:
        assert load_checkpoint(root / "model_zoo" / result.name).card == result.card
