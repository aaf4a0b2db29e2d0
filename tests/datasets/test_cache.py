import resource
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from mixbench.datasets.cache import load_cached
from mixbench.datasets.examples import Examples
from mixbench.errors import RecordError

Make = Callable[[Sequence[int]], Examples]


@dataclass
class CountingSource:
    """A source that counts how often it is decoded, and can do something while it is."""

    examples: Examples
    key: str = "a" * 64
    during: Callable[[], object] = field(default=lambda: None)
    reads: int = 0

    def signature(self, split: str) -> str:
        del split
        return self.key

    def read(self, *, name: str, split: str) -> Examples:
        del name, split
        self.reads += 1
        self.during()
        return self.examples


@pytest.fixture
def source(make_examples: Make) -> CountingSource:
    return CountingSource(make_examples([0, 1, 1, 0]))


def load(source: CountingSource, cache_dir: Path) -> Examples:
    return load_cached(source, name="toy", split="test", cache_dir=cache_dir)


def cached_folder(cache_dir: Path) -> Path:
    (folder,) = (cache_dir / "datasets").iterdir()
    return folder


@contextmanager
def file_size_limit(n_bytes: int) -> Generator[None, None, None]:
    """Make the system refuse larger files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_source_is_decoded_once(source: CountingSource, tmp_path: Path) -> None:
    first, second = load(source, tmp_path), load(source, tmp_path)
    assert source.reads == 1
    assert first.fingerprint == second.fingerprint == source.examples.fingerprint
    assert second.class_names == source.examples.class_names
    assert second.indices.tolist() == [0, 1, 2, 3]
    assert (second.name, second.split, second.subset) == ("toy", "test", "all")


def test_images_are_mapped_and_read_only(source: CountingSource, tmp_path: Path) -> None:
    images = load(source, tmp_path).images
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable


def test_the_folder_is_named_after_dataset_split_and_content(source: CountingSource, tmp_path: Path) -> None:
    load_cached(source, name="images:my cats", split="test", cache_dir=tmp_path)
    assert cached_folder(tmp_path).name == f"images_my_cats-test-{'a' * 16}"
    assert sorted(path.name for path in cached_folder(tmp_path).iterdir()) == ["images.npy", "labels.npy", "meta.json"]


def test_other_content_is_decoded_anew(source: CountingSource, make_examples: Make, tmp_path: Path) -> None:
    load(source, tmp_path)
    changed = CountingSource(make_examples([1, 1]), key="b" * 64)
    assert load(changed, tmp_path).fingerprint == changed.examples.fingerprint
    assert load(source, tmp_path).fingerprint == source.examples.fingerprint
    assert source.reads == 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_the_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("damage", [Path.unlink, truncate, flip_the_last_byte])
@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "meta.json"])
def test_a_damaged_cache_is_built_anew(
    source: CountingSource, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    load(source, tmp_path)
    victim = cached_folder(tmp_path) / name
    original = victim.read_bytes()
    damage(victim)
    assert load(source, tmp_path).fingerprint == source.examples.fingerprint
    # A manifest without its final newline says the same as before.
    assert source.reads == (1 if (name, damage) == ("meta.json", truncate) else 2)
    assert victim.read_bytes() == original or source.reads == 1


@pytest.mark.parametrize("array", [np.zeros(4), np.array(3), np.zeros((4, 1, 1, 2))], ids=["float", "scalar", "4d"])
@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_arrays_of_another_kind_are_not_trusted(
    source: CountingSource, tmp_path: Path, name: str, array: np.ndarray
) -> None:
    load(source, tmp_path)
    np.save(cached_folder(tmp_path) / name, array)
    assert load(source, tmp_path).fingerprint == source.examples.fingerprint


def test_a_manifest_of_another_version_is_not_trusted(source: CountingSource, tmp_path: Path) -> None:
    load(source, tmp_path)
    manifest = cached_folder(tmp_path) / "meta.json"
    manifest.write_text(manifest.read_text().replace("cache/1", "cache/0"))
    load(source, tmp_path)
    assert source.reads == 2


def test_an_interrupted_decoding_leaves_nothing(source: CountingSource, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    source.during = interrupt
    with pytest.raises(KeyboardInterrupt):
        load(source, tmp_path)
    assert list(tmp_path.rglob("*")) == []


def test_what_a_killed_writer_left_behind_is_not_loaded(source: CountingSource, tmp_path: Path) -> None:
    """As after `kill -9`: everything is there but the manifest, and nothing has its final name."""
    load(source, tmp_path)
    folder = cached_folder(tmp_path)
    (folder / "meta.json").unlink()
    left = folder.parent / f".{folder.name}.x.part"
    left.mkdir()
    folder.rename(left / "complete")
    load(source, tmp_path)
    assert source.reads == 2
    load(source, tmp_path)
    assert source.reads == 2


def test_a_disk_that_fills_up_is_reported_and_leaves_nothing(make_examples: Make, tmp_path: Path) -> None:
    source = CountingSource(make_examples([0, 1] * 60))
    with file_size_limit(150), pytest.raises(RecordError, match=r"cannot write .*datasets.*: File too large"):
        load(source, tmp_path)
    assert list((tmp_path / "datasets").iterdir()) == []
    assert load(source, tmp_path).fingerprint == source.examples.fingerprint


def test_a_cache_folder_that_is_a_file_is_reported(source: CountingSource, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(RecordError, match=r"cannot write .*cache/datasets.*: a part of the path is a file"):
        load(source, tmp_path / "cache")


def test_two_processes_may_build_the_same_cache(source: CountingSource, tmp_path: Path) -> None:
    """The second one finishes while the first is still decoding."""
    twin = CountingSource(source.examples)
    source.during = lambda: load(twin, tmp_path)
    assert load(source, tmp_path).fingerprint == source.examples.fingerprint
    assert (source.reads, twin.reads) == (1, 1)
    load(source, tmp_path)
    assert source.reads == 1
    assert len(list((tmp_path / "datasets").iterdir())) == 1
