import re

import pytest

from mixbench.datasets import CATALOGUE, DatasetSpec

every_dataset = pytest.mark.parametrize("spec", CATALOGUE.values(), ids=CATALOGUE.keys())


def test_the_names_are_published() -> None:
    assert list(CATALOGUE) == ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "cifar10_jpeg75"]


@every_dataset
def test_an_entry_is_consistent(spec: DatasetSpec) -> None:
    assert CATALOGUE[spec.name] is spec
    assert set(spec.splits) == {"train", "test"}
    assert len(set(spec.class_names)) == len(spec.class_names) == (100 if spec.name == "cifar100" else 10)
    assert spec.lookalike is None or spec.lookalike in CATALOGUE
    for subset in spec.subsets.values():
        assert subset.n < spec.splits[subset.split].n


@every_dataset
def test_the_default_threat_model_fits_the_images(spec: DatasetSpec) -> None:
    channels, height, width = spec.image_size
    spec.default_threat_model.check_fits(channels * height * width)


@pytest.mark.parametrize(
    ("name", "threat_model"),
    [
        ("digits", "Linf 1/10"),
        ("mnist", "Linf 1/20"),
        ("fashion_mnist", "Linf 4/255"),
        ("cifar10", "Linf 2/255"),
        ("cifar100", "Linf 1/255"),
        ("cifar10_jpeg75", "Linf 2/255"),
    ],
)
def test_default_threat_models_are_fixed(name: str, threat_model: str) -> None:
    assert str(CATALOGUE[name].default_threat_model) == threat_model


def test_fingerprints_are_hashes_and_all_differ() -> None:
    known = [
        part.fingerprint
        for spec in CATALOGUE.values()
        for part in (*spec.splits.values(), *spec.subsets.values())
        if part.fingerprint is not None
    ]
    assert len(set(known)) == len(known) == 11
    assert all(re.fullmatch("[0-9a-f]{64}", fingerprint) for fingerprint in known)


def test_cifar100_has_its_fine_classes_in_alphabetical_order() -> None:
    names = CATALOGUE["cifar100"].class_names
    assert list(names) == sorted(names)
    assert (names[0], names[-1]) == ("apple", "worm")


def test_only_digits_needs_neither_network_nor_folder() -> None:
    assert [name for name, spec in CATALOGUE.items() if spec.embedded] == ["digits"]
