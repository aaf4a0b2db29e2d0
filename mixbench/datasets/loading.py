"""From a dataset's name to its examples."""

from collections.abc import Mapping
from pathlib import Path

from mixbench.datasets.cache import Source, load_cached
from mixbench.datasets.catalogue import CATALOGUE, SPLITS, DatasetSpec, NamedSubset
from mixbench.datasets.digits import read_digits
from mixbench.datasets.examples import Examples
from mixbench.datasets.image_folder import ImageFolderSource
from mixbench.datasets.parquet import ParquetSource, find_shards
from mixbench.datasets.selection import choose_balanced
from mixbench.datasets.torchvision_sources import TorchvisionSource
from mixbench.errors import DatasetError, InvalidInputError, UnknownNameError

ALL = "all"
_FOLDER_KINDS: dict[str, type[ParquetSource] | type[ImageFolderSource]] = {
    "parquet": ParquetSource,
    "images": ImageFolderSource,
}


def load_examples(
    name: str,
    *,
    split: str = "test",
    data_dir: Path | None,
    cache_dir: Path,
    subset: str | None = None,
    n_examples: int | None = None,
    seed: int,
) -> Examples:
    """Return the examples of a split, of one of its named subsets, or a class-balanced choice from it.

    Args:
        name: A name of the catalogue, or `parquet:FOLDER` or `images:FOLDER`, which are named after the folder alone.
        split: "train" or "test".
        data_dir: Where the data is already, or is to be downloaded to; None downloads below `cache_dir`. The
            embedded set and the two folder forms do not look at it.
        cache_dir: Where decoded images are kept; they are memory-mapped from there.
        subset: "all" or a named subset of the catalogue; excludes `n_examples`.
        n_examples: How many examples to choose, 1 to the size of the split.
        seed: Decides which ones; used with `n_examples` only.

    Raises UnknownNameError, InvalidInputError, DatasetError for data that is missing, damaged or not what its name
    says, and RecordError where the cache cannot be written.
    """
    if subset is not None and n_examples is not None:
        raise InvalidInputError(f"subset {subset!r} and n_examples {n_examples} exclude each other: give one of them")
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    kind, separator, folder = name.partition(":")
    if separator and kind in _FOLDER_KINDS:
        _find_subset({}, subset, split=split)
        examples = _load_folder(kind, folder, split=split, cache_dir=cache_dir)
    elif name in CATALOGUE:
        examples = _load_known(CATALOGUE[name], split=split, data_dir=data_dir, cache_dir=cache_dir, subset=subset)
    else:
        raise UnknownNameError("dataset", name, [*CATALOGUE, *(f"{kind}:FOLDER" for kind in _FOLDER_KINDS)])
    return examples if n_examples is None else choose_balanced(examples, n_examples, seed=seed)


def _load_folder(kind: str, folder: str, *, split: str, cache_dir: Path) -> Examples:
    path = Path(folder).expanduser()
    if not folder or not path.is_dir():
        raise DatasetError(f"{kind}:{folder} does not name a folder that exists: check the path after {kind}:")
    # Only the last part enters the name: records are shared, and a prefix keeps it apart from the catalogue's names.
    return load_cached(
        _FOLDER_KINDS[kind](path), name=f"{kind}:{path.resolve().name}", split=split, cache_dir=cache_dir
    )


def _load_known(
    spec: DatasetSpec, *, split: str, data_dir: Path | None, cache_dir: Path, subset: str | None
) -> Examples:
    chosen = _find_subset(spec.subsets, subset, split=split)
    if spec.embedded:
        whole = read_digits(split=split)
    else:
        source = _find_source(spec, split=split, data_dir=data_dir, cache_dir=cache_dir)
        whole = load_cached(source, name=spec.name, split=split, cache_dir=cache_dir)
    if chosen is None or subset is None:
        return _verified(whole, spec.splits[split].fingerprint, spec)
    if whole.fingerprint == chosen.fingerprint:
        return chosen.choose(whole, name=subset)
    whole = _verified(whole, spec.splits[split].fingerprint, spec)
    return _verified(chosen.choose(whole, name=subset), chosen.fingerprint, spec)


def _find_subset(subsets: Mapping[str, NamedSubset], subset: str | None, *, split: str) -> NamedSubset | None:
    """Return the named subset, or None for the whole split; raises UnknownNameError."""
    available = {name: named for name, named in subsets.items() if named.split == split}
    if subset is None or subset == ALL:
        return None
    if subset not in available:
        raise UnknownNameError("subset", subset, [ALL, *available])
    return available[subset]


def _find_source(spec: DatasetSpec, *, split: str, data_dir: Path | None, cache_dir: Path) -> Source:
    folder = _parquet_folder(spec, split=split, data_dir=data_dir)
    if folder is not None:
        return ParquetSource(folder, class_names=spec.class_names, in_path_order=spec.official_paths)
    if spec.torchvision_class is None:
        raise DatasetError(
            f"{spec.name} cannot be downloaded: pass --data-dir with a folder that has {split}-*.parquet in one of"
            f" {', '.join(spec.parquet_folders)} (looked in {data_dir or 'no folder'})"
        )
    source = TorchvisionSource(
        spec.torchvision_class,
        data_dir or cache_dir / "downloads",
        class_names=spec.class_names,
        lookalike=spec.lookalike,
    )
    if spec.lookalike is not None and not source.folder.exists():
        mistaken = _parquet_folder(CATALOGUE[spec.lookalike], split=split, data_dir=data_dir)
        if mistaken is not None:
            raise DatasetError(
                f"{mistaken} is not the published {spec.title}: if its images went through JPEG, use {spec.lookalike};"
                f" otherwise use parquet:{mistaken}, or leave --data-dir out to download {spec.name}"
            )
    return source


def _parquet_folder(spec: DatasetSpec, *, split: str, data_dir: Path | None) -> Path | None:
    if data_dir is None:
        return None
    folders = (data_dir / folder for folder in spec.parquet_folders)
    return next((folder for folder in folders if find_shards(folder, split=split)), None)


def _verified(examples: Examples, expected: str | None, spec: DatasetSpec) -> Examples:
    """Return `examples` if they have the `expected` fingerprint, or if none is known; raises DatasetError."""
    if expected is None or examples.fingerprint == expected:
        return examples
    for name, named in spec.subsets.items():
        if named.fingerprint == examples.fingerprint:
            raise DatasetError(
                f"the folder has only the {named.n} examples of the subset {name!r} of {spec.name}: ask for that"
                f" subset, or pass --data-dir with all {spec.splits[named.split].n}"
            )
    raise DatasetError(
        f"{spec.name} ({examples.split}, {examples.subset}) has fingerprint {examples.fingerprint}, expected {expected}"
        " (other images, labels or order than the name stands for, or another JPEG decoder): fetch the data again, or"
        " load it under its own name with parquet:FOLDER"
    )
