import csv
import io
from pathlib import Path

import pytest

from mixbench.errors import CheckpointError, InvalidInputError, UnknownNameError
from mixbench.models import load_checkpoint
from mixbench.training import Places, TrainingRun, train_to_folder, usual_tag


def _places(folder: Path) -> Places:
    return Places(folder / "out", "cpu", None, folder / "cache")


@pytest.mark.parametrize(
    ("dataset", "recipe", "tag"),
    [
        ("digits", "standard", "digits"),
        ("digits", "linf", "digits_linf"),
        ("cifar10_jpeg75", "l2", "cifar10_jpeg75_l2"),
    ],
)
def test_the_usual_tag_names_dataset_and_recipe(dataset: str, recipe: str, tag: str) -> None:
    assert usual_tag(dataset, recipe) == tag
    assert TrainingRun("resnet_frozen", dataset, recipe, 0, 0).name == f"resnet_frozen.{tag}"
    assert TrainingRun("resnet_frozen", dataset, recipe, 0, 0, tag="mine").name == "resnet_frozen.mine"


def test_the_command_repeats_the_run_on_the_same_kind_of_device() -> None:
    run = TrainingRun("resnet_frozen", "digits", "linf", 3, 4, epochs=7)
    assert run.command("cuda:1") == (
        "mixbench train --model resnet_frozen --dataset digits --recipe linf --seed 3 --filter-seed 4 --epochs 7"
        " --device cuda"
    )


def test_unknown_parts_are_refused_before_anything_is_read() -> None:
    with pytest.raises(UnknownNameError, match="unknown architecture 'resnet_frosen': did you mean 'resnet_frozen'"):
        TrainingRun("resnet_frosen", "digits", "linf", 0, 0).spec()
    with pytest.raises(UnknownNameError, match="unknown recipe for digits 'linv'"):
        TrainingRun("resnet_frozen", "digits", "linv", 0, 0).resolved_recipe()
    with pytest.raises(InvalidInputError, match="epochs 0 is not at least 1"):
        TrainingRun("resnet_frozen", "digits", "linf", 0, 0, epochs=0).resolved_recipe()


def test_a_run_leaves_a_checkpoint_with_its_log_and_nothing_else(tmp_path: Path) -> None:
    run = TrainingRun("convmixer_spatial", "digits", "standard", 1, 2, epochs=2)
    checkpoint, epochs = train_to_folder(run, _places(tmp_path), overwrite=False)
    folder = tmp_path / "out" / "convmixer_spatial.digits"
    assert load_checkpoint(folder).card == checkpoint.card
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    rows = list(csv.DictReader(io.StringIO((folder / "training.csv").read_text())))
    assert [(int(row["epoch"]), float(row["loss"])) for row in rows] == [
        (epoch.number, pytest.approx(epoch.loss, abs=1e-6)) for epoch in epochs
    ]
    assert [float(row["accuracy"]) for row in rows] == pytest.approx([e.accuracy.rate for e in epochs], abs=1e-6)
    assert {(row["validation_accuracy"], row["pgd5_accuracy"]) for row in rows} == {("", "")}


def test_an_existing_checkpoint_is_refused_before_training(tmp_path: Path) -> None:
    run = TrainingRun("convmixer_frozen", "digits", "standard", 0, 0, epochs=10**6)
    (tmp_path / "out" / run.name).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="exists already: pass --overwrite"):
        train_to_folder(run, _places(tmp_path), overwrite=False)
