from pathlib import Path

import pytest

from mixbench.errors import InvalidInputError, MixbenchError, UnknownNameError
from mixbench.sweep import read_sweep
from tests.sweep.conftest import FGSM, HEAD, L2

GRID = HEAD + FGSM


def _read(folder: Path, text: str | bytes) -> object:
    path = folder / "s.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_sweep(path)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("_spatial", "_spatal", UnknownNameError, r"s\.toml: grid\.0: unknown architecture 'convmixer_spatal': did"),
        ("epochs", 'recipes = ["lin"]\nepochs', UnknownNameError, r"s\.toml: grid\.0: .*'lin': did you mean 'linf'"),
        ('"digits"', '"digit"', UnknownNameError, r"s\.toml: grid\.0: .*'digit': did you mean 'digits'"),
        ("fgsm", "fgms", UnknownNameError, r"s\.toml: grid\.0: .*'fgms': did you mean 'fgsm'"),
        ("eps", 'norm = "Lif"\neps', UnknownNameError, r"s\.toml: grid\.0: unknown norm 'Lif'"),
        ("1/10", "8", InvalidInputError, r"s\.toml: grid\.0: eps 8 is over 1.*did you mean 8/255"),
        ("eps", 'norm = "L1"\neps', InvalidInputError, r"s\.toml: grid\.0: fgsm has no L1 version"),
        (
            "= 20",
            "= 361",
            InvalidInputError,
            r"s\.toml: grid\.0: n_examples 361 is over the 360 test examples of digits",
        ),
    ],
    ids=["model", "recipe", "dataset", "attack", "norm", "eps", "norm of attack", "examples"],
)
def test_what_would_fail_after_training_is_refused_before_it(
    old: str, new: str, error: type[MixbenchError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        _read(tmp_path, GRID.replace(old, new, 1))


def test_an_l2_ball_over_all_images_is_refused(tmp_path: Path) -> None:
    """Two images of 64 values in [0, 1] are at most 8 apart."""
    assert _read(tmp_path, HEAD + L2.replace("1/2", "8"))
    with pytest.raises(InvalidInputError, match=r"s\.toml: grid\.0: eps 9 is over 8, the largest L2 distance"):
        _read(tmp_path, HEAD + L2.replace("1/2", "9"))


def test_the_place_names_the_grid_at_fault(tmp_path: Path) -> None:
    second = GRID.replace("epochs", "seeds = [1]\nepochs").replace("fgsm", "pdg")
    with pytest.raises(UnknownNameError, match=r"s\.toml: grid\.1: unknown attack 'pdg'"):
        _read(tmp_path, GRID + second)


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ('seeds = ["1"]', r"grid\.0\.seeds\.0"),
        ("seeds = [true]", r"grid\.0\.seeds\.0"),
        ("seeds = [1.0]", r"grid\.0\.seeds\.0"),
        ("seeds = [1979-05-27]", r"grid\.0\.seeds\.0"),
        ("filter_seeds = [4294967296]", r"grid\.0\.filter_seeds\.0"),
        ("filter_seeds = [-1]", r"grid\.0\.filter_seeds\.0"),
        ("recipes = []", r"grid\.0\.recipes"),
        ("keep_weights = 1", r"grid\.0\.keep_weights"),
    ],
)
def test_a_value_of_another_kind_is_not_guessed_at(key: str, place: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=rf"s\.toml is not a sweep: {place}: .*; correct it"):
        _read(tmp_path, GRID.replace("epochs", f"{key}\nepochs"))


def test_the_same_run_in_two_grids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInputError, match=r"s\.toml is not a sweep: grid: .*two runs are called convmixer_spatial"
    ):
        _read(tmp_path, GRID + HEAD)


@pytest.mark.parametrize("content", [b"\xff", b"grid = [", b"a = " + b"[" * 20_000], ids=["bytes", "cut", "deep"])
def test_what_is_no_toml_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"s\.toml is not TOML"):
        _read(tmp_path, content)
