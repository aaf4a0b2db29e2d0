import io
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mixbench.datasets import CATALOGUE, Examples, choose_balanced, load_examples
from mixbench.errors import DatasetError, InvalidInputError, MixbenchError, UnknownNameError

Row = tuple[bytes | None, str | None, int | None]
WriteParquet = Callable[..., Path]


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests on real data, so that each set is decoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def toy_in_catalogue(monkeypatch: pytest.MonkeyPatch) -> Callable[[Examples], None]:
    """A function that gives `cifar10_jpeg75` the fingerprint of a small set, so that small files can stand for it."""

    def pretend(whole: Examples) -> None:
        spec = CATALOGUE["cifar10_jpeg75"]
        part = replace(spec.subsets["test_1k"], n=4)
        part = replace(part, fingerprint=part.choose(whole, name="x").fingerprint)
        splits = {**spec.splits, "test": replace(spec.splits["test"], n=len(whole), fingerprint=whole.fingerprint)}
        monkeypatch.setitem(CATALOGUE, spec.name, replace(spec, splits=splits, subsets={"test_1k": part}))

    return pretend


def parquet_examples(folder: Path, cache_dir: Path) -> Examples:
    return load_examples(f"parquet:{folder}", data_dir=None, cache_dir=cache_dir, seed=0)


def test_digits_need_nothing_and_write_nothing(tmp_path: Path) -> None:
    examples = load_examples("digits", data_dir=None, cache_dir=tmp_path / "cache", seed=0)
    assert (len(examples), examples.subset) == (360, "all")
    assert not (tmp_path / "cache").exists()


def test_n_examples_is_the_balanced_choice_of_that_seed(tmp_path: Path) -> None:
    whole = load_examples("digits", split="train", data_dir=None, cache_dir=tmp_path, seed=0)
    chosen = load_examples("digits", split="train", data_dir=None, cache_dir=tmp_path, n_examples=100, seed=4)
    assert chosen.fingerprint == choose_balanced(whole, 100, seed=4).fingerprint
    assert chosen.subset == "balanced-100-seed-4"


@pytest.mark.parametrize("n", [0, 361])
def test_n_examples_outside_the_set_is_refused_with_both_numbers(tmp_path: Path, n: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"cannot choose {n} examples of digits .* 1 to 360"):
        load_examples("digits", data_dir=None, cache_dir=tmp_path, n_examples=n, seed=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "cifar"}, UnknownNameError, "unknown dataset 'cifar': did you mean 'cifar10'"),
        ({"name": "zip:x"}, UnknownNameError, "unknown dataset 'zip:x': .*images:FOLDER.*parquet:FOLDER"),
        ({"name": "digits", "subset": "test_1k"}, UnknownNameError, "unknown subset 'test_1k': available: all"),
        ({"name": "mnist", "split": "train", "subset": "test_1k"}, UnknownNameError, "'test_1k': available: all$"),
        ({"name": "mnist", "subset": "tiny"}, UnknownNameError, "'tiny': available: all, test_1k"),
        ({"name": "parquet:.", "subset": "test_1k"}, UnknownNameError, "'test_1k': available: all"),
        ({"name": "digits", "split": "val"}, UnknownNameError, "unknown split 'val'"),
        ({"name": "digits", "subset": "all", "n_examples": 9}, InvalidInputError, "'all' and n_examples 9 exclude"),
        ({"name": "parquet:"}, DatasetError, "parquet: does not name a folder"),
        ({"name": "images:/no/such"}, DatasetError, "images:/no/such does not name a folder that exists"),
        ({"name": "cifar10_jpeg75"}, DatasetError, "cifar10_jpeg75 cannot be downloaded: pass --data-dir"),
    ],
)
def test_a_bad_request_is_refused(
    tmp_path: Path, arguments: dict[str, str], error: type[MixbenchError], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_examples(**{"data_dir": None, "cache_dir": tmp_path, "seed": 0, **arguments})  # type: ignore[arg-type]


def test_a_wrong_fingerprint_is_refused_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = CATALOGUE["digits"]
    found, expected = str(spec.splits["test"].fingerprint), "0" * 64
    changed = {**spec.splits, "test": replace(spec.splits["test"], fingerprint=expected)}
    monkeypatch.setitem(CATALOGUE, "digits", replace(spec, splits=changed))
    with pytest.raises(DatasetError, match=f"digits .test, all. has fingerprint {found}, expected {expected}"):
        load_examples("digits", data_dir=None, cache_dir=tmp_path, seed=0)


def test_folders_are_named_without_their_place(tmp_path: Path, rows: list[Row], write_parquet: WriteParquet) -> None:
    """Records are shared: they must not say where on a machine the data was, nor pass for a set of the catalogue."""
    write_parquet(tmp_path / "mnist" / "test-00000-of-00001.parquet", rows)
    assert parquet_examples(tmp_path / "mnist", tmp_path / "cache").name == "parquet:mnist"


def test_image_folders_are_loaded_and_cached(tmp_path: Path, rows: list[Row]) -> None:
    for content, path, label in rows:
        file = tmp_path / "pets" / "test" / f"class{label}" / Path(str(path)).name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content or b"")
    examples = load_examples(f"images:{tmp_path / 'pets'}", data_dir=None, cache_dir=tmp_path / "cache", seed=0)
    assert (len(examples), examples.name, examples.class_names) == (6, "images:pets", ("class0", "class1"))
    assert len(list((tmp_path / "cache" / "datasets").iterdir())) == 1


@pytest.mark.parametrize("place", ["cifar10/plain_text", "plain_text", "cifar10_jpeg75", "."])
@pytest.mark.parametrize(("subset", "n"), [(None, 6), ("all", 6), ("test_1k", 4)])
def test_jpeg_cifar10_is_found_below_the_data_folder(  # noqa: PLR0917 - fixtures
    tmp_path: Path,
    rows: list[Row],
    write_parquet: WriteParquet,
    toy_in_catalogue: Callable[[Examples], None],
    place: str,
    subset: str | None,
    n: int,
) -> None:
    data_dir, cache_dir = tmp_path / "data", tmp_path / "cache"
    write_parquet(data_dir / place / "test-00000-of-00001.parquet", rows, column="img")
    whole = parquet_examples(data_dir / place, cache_dir)
    toy_in_catalogue(whole)
    found = load_examples("cifar10_jpeg75", data_dir=data_dir, cache_dir=cache_dir, subset=subset, seed=0)
    assert (found.images == whole.images[:n]).all()
    assert (found.subset, found.class_names[0]) == (subset or "all", "airplane")


@pytest.mark.parametrize("place", ["cifar10/test_1k", "test_1k", "."])
def test_a_folder_with_only_the_subset_gives_that_subset_and_nothing_else(
    tmp_path: Path,
    rows: list[Row],
    write_parquet: WriteParquet,
    toy_in_catalogue: Callable[[Examples], None],
    place: str,
) -> None:
    write_parquet(tmp_path / "whole" / "test-00000-of-00001.parquet", rows)
    toy_in_catalogue(parquet_examples(tmp_path / "whole", tmp_path / "cache"))
    write_parquet(tmp_path / "part" / place / "test-00000-of-00001.parquet", rows[:4])

    def load(subset: str | None) -> Examples:
        return load_examples(
            "cifar10_jpeg75", data_dir=tmp_path / "part", cache_dir=tmp_path / "cache", subset=subset, seed=0
        )

    assert (len(load("test_1k")), load("test_1k").subset) == (4, "test_1k")
    with pytest.raises(DatasetError, match=r"only the 4 examples of the subset 'test_1k' .* with all 6"):
        load(None)


def test_jpeg_parquet_does_not_pass_for_cifar10(tmp_path: Path, rows: list[Row], write_parquet: WriteParquet) -> None:
    write_parquet(tmp_path / "cifar10" / "plain_text" / "test-00000-of-00001.parquet", rows)
    with pytest.raises(DatasetError, match=r"not the published CIFAR-10: .* use cifar10_jpeg75"):
        load_examples("cifar10", data_dir=tmp_path, cache_dir=tmp_path / "cache", seed=0)


def test_other_parquet_does_not_pass_for_mnist(tmp_path: Path, rows: list[Row], write_parquet: WriteParquet) -> None:
    write_parquet(tmp_path / "mnist" / "test-00000-of-00001.parquet", rows)
    with pytest.raises(DatasetError, match=r"mnist .test, all. has fingerprint .*, expected 7e06f44daa3c"):
        load_examples("mnist", data_dir=tmp_path, cache_dir=tmp_path / "cache", seed=0)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10_jpeg75"])
def test_the_real_test_sets_are_what_the_catalogue_says(data_dir: Path, real_cache: Path, name: str) -> None:
    """Loading compares the fingerprints of the split and of the subset with the catalogue."""
    spec = CATALOGUE[name]
    whole = load_examples(name, data_dir=data_dir, cache_dir=real_cache, seed=0)
    part = load_examples(name, data_dir=data_dir, cache_dir=real_cache, subset="test_1k", seed=0)
    assert (len(whole), whole.images.shape[1:]) == (spec.splits["test"].n, spec.image_size)
    assert set(np.bincount(part.labels)) == {100}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10_jpeg75"])
def test_the_real_training_sets_are_what_the_catalogue_says(data_dir: Path, real_cache: Path, name: str) -> None:
    whole = load_examples(name, split="train", data_dir=data_dir, cache_dir=real_cache, seed=0)
    assert len(whole) == CATALOGUE[name].splits["train"].n


def test_the_real_thousand_is_the_same_from_either_file(data_dir: Path, real_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "test_1k").symlink_to(data_dir / "cifar10" / "test_1k")
    of_all, alone = (
        load_examples("cifar10_jpeg75", data_dir=folder, cache_dir=real_cache, subset="test_1k", seed=0)
        for folder in (data_dir, tmp_path)
    )
    assert of_all.fingerprint == alone.fingerprint
    assert of_all.indices.tolist() == alone.indices.tolist() == list(range(1000))


def test_mnist_is_the_same_from_parquet_and_from_the_official_idx_files(
    data_dir: Path, real_cache: Path, tmp_path: Path
) -> None:
    """The IDX files are written from the parquet rows in the order of their official numbers."""
    table = pq.read_table(data_dir / "mnist" / "mnist" / "test-00000-of-00001.parquet")
    images, labels = table["image"].to_pylist(), table["label"].to_pylist()
    order = np.argsort([int(Path(image["path"]).stem) for image in images])
    pixels = b"".join(Image.open(io.BytesIO(images[n]["bytes"])).tobytes() for n in order)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, 10_000, 28, 28) + pixels)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 10_000) + bytes(labels[n] for n in order))
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (raw / name).touch()
    by_idx = load_examples("mnist", data_dir=tmp_path, cache_dir=tmp_path / "cache", seed=0)
    by_parquet = load_examples("mnist", data_dir=data_dir, cache_dir=real_cache, seed=0)
    assert by_idx.fingerprint == by_parquet.fingerprint == CATALOGUE["mnist"].splits["test"].fingerprint
    assert by_idx.class_names == by_parquet.class_names


def test_importing_datasets_and_loading_digits_needs_no_torch() -> None:
    program = (
        "import sys, pathlib, mixbench.datasets as d;"
        "d.load_examples('digits', data_dir=None, cache_dir=pathlib.Path('unused'), seed=0);"
        "sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
