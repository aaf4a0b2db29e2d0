import re
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import Tensor

from mixbench.datasets import CATALOGUE, Examples
from mixbench.datasets.digits import read_digits
from mixbench.files import sha256_of
from mixbench.mixers import Mixing, frozen_proof
from mixbench.models import Checkpoint, load_checkpoint, load_model, read_config, zoo_folder, zoo_names
from mixbench.models.checkpoints import WEIGHTS_NAME
from tests.conftest import ROOT

MODES = ("trained", "frozen", "frozen_smooth", "spatial")
DIGITS_ZOO = {f"{family}_{mode}.digits" for family in ("convmixer", "resnet") for mode in MODES} | {
    "convmixer_trained.digits_linf",
    "convmixer_frozen.digits_linf",
}
IMAGES = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Entry:
    """A checkpoint of the zoo and its card's text."""

    name: str
    checkpoint: Checkpoint
    card_text: str


@pytest.fixture(scope="module", params=zoo_names())
def entry(request: pytest.FixtureRequest) -> Entry:
    """Each checkpoint of the zoo, loaded once with all proofs."""
    folder = zoo_folder() / request.param
    return Entry(request.param, load_checkpoint(folder), (folder / "README.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def digits() -> Examples:
    """The test digits."""
    return read_digits(split="test")


def _logits(model: torch.nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def _images_for(entry: Entry) -> Tensor:
    channels, height, width = entry.checkpoint.card.image_size
    return IMAGES if (channels, height, width) == (1, 8, 8) else torch.rand(2, channels, height, width)


def test_the_zoo_holds_the_digits_checkpoints() -> None:
    assert set(zoo_names()) >= DIGITS_ZOO


def test_names_are_sorted_with_digits_first() -> None:
    names = [name for name in zoo_names() if name.startswith("convmixer_frozen.")]
    assert names[0] == "convmixer_frozen.digits"
    assert names[1:] == sorted(names[1:])
    assert [name.partition(".")[0] for name in zoo_names()] == sorted(name.partition(".")[0] for name in zoo_names())


def test_a_checkpoint_that_is_being_written_is_no_name_yet(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("zoo")
    for name in ("convmixer_frozen.digits", ".convmixer_frozen.digits.x7", "notes"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
    monkeypatch.setattr("mixbench.models.zoo.zoo_folder", lambda: folder)
    assert zoo_names() == ("convmixer_frozen.digits",)


def test_the_digits_zoo_is_small() -> None:
    files = [path for name in DIGITS_ZOO for path in (zoo_folder() / name).iterdir()]
    assert {path.name for path in files} == {"config.json", "model.safetensors", "README.md"}
    assert sum(path.stat().st_size for path in files) < 5_000_000


def test_every_way_of_loading_gives_the_same_logits(entry: Entry) -> None:
    images = _images_for(entry)
    expected = _logits(entry.checkpoint.model, images)
    by_name = timm.create_model(entry.name, pretrained=True).eval()
    by_folder = timm.create_model(f"local-dir:{zoo_folder() / entry.name}", pretrained=True).eval()
    loaded = load_model(entry.name)
    for model in (by_name, by_folder, loaded.module):
        assert torch.equal(_logits(model, images), expected)
    assert expected.std() > 0.1


def test_a_loaded_model_says_what_its_card_says(entry: Entry) -> None:
    card, loaded = entry.checkpoint.card, load_model(entry.name)
    identity = loaded.identity
    assert (identity.name, identity.sha256, identity.mixing) == (entry.name, card.sha256, card.mixing)
    assert identity.filter_seed == (None if card.mixing == "trained" else card.filter_seed)
    assert identity.parameters == card.parameters
    assert (loaded.image_size, loaded.dataset) == (card.image_size, card.dataset)
    assert not loaded.module.training


def test_frozen_filters_are_what_their_seed_draws(entry: Entry) -> None:
    spec = entry.checkpoint.spec
    frozen_proof(entry.checkpoint.model, spec.architecture.mixing, scheme=spec.scheme, filter_seed=spec.filter_seed)
    frozen = [parameter for parameter in entry.checkpoint.model.parameters() if not parameter.requires_grad]
    assert (len(frozen) == 0) is (spec.architecture.mixing is Mixing.TRAINED)
    assert sum(parameter.numel() for parameter in frozen) == entry.checkpoint.card.parameters.frozen


@pytest.mark.parametrize("family", ["convmixer", "resnet"])
def test_a_family_shares_its_initial_filters(family: str) -> None:
    specs = [read_config(zoo_folder() / f"{family}_{mode}.digits")[0] for mode in ("trained", "frozen")]
    models = [spec.build() for spec in specs]
    frozen = load_checkpoint(zoo_folder() / f"{family}_frozen.digits").model
    names = [name for name, parameter in frozen.named_parameters() if not parameter.requires_grad]
    assert names
    for name in names:
        assert torch.equal(models[0].state_dict()[name], frozen.state_dict()[name])
        assert torch.equal(models[1].state_dict()[name], frozen.state_dict()[name])


def test_the_four_modes_differ_in_nothing_but_mixing() -> None:
    for family in ("convmixer", "resnet"):
        found = [read_config(zoo_folder() / f"{family}_{mode}.digits") for mode in MODES]
        shared = {(str(dict(spec.args)), card.seed, card.filter_seed, card.recipe, card.epochs) for spec, card in found}
        assert len(shared) == 1


def test_the_card_tells_what_config_json_tells(entry: Entry) -> None:
    card, text = entry.checkpoint.card, entry.card_text
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert text.startswith("---\n")
    assert "library_name: timm" in front
    assert f"datasets:\n- {card.dataset}" in front
    assert body.startswith(f"# {entry.name}\n")
    assert f"SHA-256 `{card.sha256}`" in body
    assert f"`{card.command}`" in body
    assert f"fingerprint `{card.dataset_fingerprint}`" in body
    assert f"{card.parameters.trained} trained, {card.parameters.frozen} frozen" in body
    assert f"{card.filter_scheme}, filter seed {card.filter_seed}" in body
    assert re.search(rf"\| clean accuracy \| {card.clean.rate:.2%} \({card.clean.correct} of {card.clean.total} ", body)
    assert card.sha256 == sha256_of(zoo_folder() / entry.name / WEIGHTS_NAME)


def _skip_submissions(entry: Entry) -> None:
    """Where an accepted submission comes from is what its authors say; it may have been trained by another program."""
    if (ROOT / "leaderboards" / "submissions" / entry.name).exists():
        pytest.skip(f"{entry.name} is a submission")


def test_the_command_of_the_card_names_what_it_made(entry: Entry) -> None:
    _skip_submissions(entry)
    card = entry.checkpoint.card
    words = card.command.split()
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["mixbench", "train"]
    assert options["--model"] == entry.checkpoint.spec.architecture.name
    assert (options["--dataset"], options["--recipe"]) == (card.dataset, card.recipe)
    assert (options["--seed"], options["--filter-seed"]) == (str(card.seed), str(card.filter_seed))


def test_the_card_names_the_training_data_of_the_catalogue(entry: Entry) -> None:
    _skip_submissions(entry)
    card = entry.checkpoint.card
    assert card.dataset_fingerprint == CATALOGUE[card.dataset].splits["train"].fingerprint


@pytest.mark.parametrize("name", [name for name in zoo_names() if ".digits" in name])
def test_the_clean_accuracy_of_the_card_is_what_the_test_digits_give(name: str, digits: Examples) -> None:
    checkpoint = load_checkpoint(zoo_folder() / name)
    predictions = _logits(checkpoint.model, torch.from_numpy(digits.images).float() / 255).argmax(1)
    clean = checkpoint.card.clean
    assert (clean.correct, clean.total) == (int((predictions == torch.from_numpy(digits.labels)).sum()), 360)
    assert clean.rate > 0.85
