from dataclasses import replace

import pytest

from mixbench.datasets import Examples
from mixbench.models import ARCHITECTURES, Checkpoint, ModelSpec
from mixbench.records import Accuracy
from mixbench.training import Recipe, model_card, recipe_for, train

NAME = "convmixer_frozen.toy"


@pytest.fixture
def checkpoint(train_digits: Examples, test_digits: Examples, tiny: Recipe) -> Checkpoint:
    """A checkpoint with a clean accuracy that was chosen by hand."""
    spec = ModelSpec.for_dataset(ARCHITECTURES["convmixer_frozen"], "digits", filter_seed=6)
    made = train(spec, train_digits, test_digits, replace(tiny, epochs=1), seed=5, command="mixbench train --seed 5")
    return replace(made, card=made.card.model_copy(update={"clean": Accuracy(correct=15, total=148), "seconds": 12.6}))


def test_the_card_contains_the_numbers(checkpoint: Checkpoint, tiny: Recipe) -> None:
    text = model_card(NAME, checkpoint, tiny, title="Digits")
    card = checkpoint.card
    for expected in (
        f"# {NAME}\n",
        "Trained on Digits.",
        "convmixer_frozen (dim 48, depth 4, kernel_size 3, patch_size 2, in_chans 1, num_classes 10) |",
        "| spatial filters | uniform, filter seed 6 |",
        "| parameters | 11002 trained, 1920 frozen |",
        "| input | 1x8x8, pixels in [0, 1], no normalisation |",
        f"fingerprint `{card.dataset_fingerprint}`",
        "tiny: AdamW, one cycle to learning rate 0.01, weight decay 0.5, batch 32, 2 epochs; shifts up to 1 px |",
        "| seed | 5 |",
        # The interval is the published one of 15 out of 148.
        "10.14% (15 of 148 test examples; 95% Wilson interval 6.24% to 16.05%)",
        "`mixbench train --seed 5` in 13 s on cpu",
        f"SHA-256 `{card.sha256}`",
        f'timm.create_model("{NAME}", pretrained=True)',
    ):
        assert expected in text


def test_the_front_matter_is_what_the_hub_reads(checkpoint: Checkpoint, tiny: Recipe) -> None:
    lines = model_card(NAME, checkpoint, tiny, title="Digits").splitlines()
    assert lines[0] == "---"
    front = lines[1 : lines.index("---", 1)]
    keys = [line.partition(":")[0] for line in front if not line.startswith("-")]
    assert keys == ["library_name", "license", "tags", "datasets", "metrics"]
    assert front[:2] == ["library_name: timm", "license: mit"]
    assert front[front.index("datasets:") + 1] == "- digits"


def test_adversarial_training_and_mirroring_are_told(checkpoint: Checkpoint, tiny_linf: Recipe) -> None:
    text = model_card(NAME, checkpoint, tiny_linf, title="Digits")
    words = "shifts up to 1 px, half mirrored; adversarial training at Linf 1/10, PGD with 2 steps of 0.75 eps |"
    assert words in text


def test_schedule_augmentation_warm_up_and_held_out_examples_are_told(checkpoint: Checkpoint) -> None:
    held_out = checkpoint.card.model_copy(update={"validation": Accuracy(correct=15, total=148)})
    recipe = recipe_for("mnist", "linf")
    text = model_card(NAME, replace(checkpoint, card=held_out), recipe, title="MNIST")
    assert "AdamW, piecewise linear to learning rate 0.01" in text
    assert "PGD with 10 steps of 0.25 eps, eps rising over 5 epochs; 2000 training examples held out" in text
    assert "| held out | 10.14% (15 of 148 training examples; 95% Wilson interval 6.24% to 16.05%) |" in text
    text = model_card(NAME, checkpoint, recipe_for("cifar10_jpeg75", "standard"), title="CIFAR-10")
    assert "RandAugment of 2 operations at magnitude 12; a random rectangle blackened in 25% of the images;" in text
    assert "| held out |" not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("convmixer_trained", "the paper's *Full*"),
        ("convmixer_frozen", "the paper's *Chans*"),
        ("convmixer_frozen_smooth", "that were smoothed"),
        ("convmixer_spatial", "the paper's *Space*"),
    ],
)
def test_every_mode_is_explained(checkpoint: Checkpoint, tiny: Recipe, name: str, words: str) -> None:
    mixing = ARCHITECTURES[name].mixing.value
    changed = replace(checkpoint, card=checkpoint.card.model_copy(update={"mixing": mixing}))
    assert words in model_card(NAME, changed, tiny, title="Digits")
