"""Whatever a user gets wrong ends with exit code 2, one sentence, and a disk as it was."""

import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save_file

from mixbench.models import zoo_folder
from tests.cli import factories
from tests.cli.conftest import Run, save_digits, tree

_EVAL = ("eval", "--attack", "pgd", "--steps", 2, "--n-examples", 20)
_FROZEN = (*_EVAL, "--model", "convmixer_frozen")
_OWN = "tests.cli.factories:"


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        pytest.param(
            ["--model", "convmixer_frozn.digits"],
            ["unknown model 'convmixer_frozn.digits'", "did you mean 'convmixer_frozen.digits'", "available: "],
            id="misspelt model",
        ),
        pytest.param(
            ["--model", "convmixer_frozen.imagenet"],
            ["unknown model 'convmixer_frozen.imagenet'", "did you mean 'convmixer_frozen.digits'"],
            id="unknown tag",
        ),
        pytest.param(
            ["--model", "timm:resnet81"], ["unknown timm model 'resnet81'", "did you mean 'resnet18'"], id="timm model"
        ),
        pytest.param(["--model", "local-dir:nowhere"], ["nowhere", "config.json"], id="no checkpoint folder"),
        pytest.param(
            ["--model", "no_such_package:net"], ["no_such_package:net", "package.module:factory"], id="module"
        ),
        pytest.param(["--model", f"{_OWN}nett"], ["factories:nett", "package.module:factory"], id="factory"),
        pytest.param(["--model", ":net"], [":net", "package.module:factory"], id="factory without a module"),
        pytest.param(["--model", f"{_OWN}nearest_mean"], ["was trained on", "--dataset"], id="data not named"),
    ],
)
def test_a_model_that_does_not_exist(arguments: list[str], fragments: list[str], here: Path, mixbench: Run) -> None:
    assert mixbench(*_EVAL, *arguments).refuses(*fragments)
    assert tree(here) == {}


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        pytest.param(["--attack", "pdg"], ["unknown attack 'pdg'", "did you mean 'pgd'", "autoattack"], id="attack"),
        pytest.param(["--dataset", "digit"], ["unknown dataset 'digit'", "did you mean 'digits'"], id="dataset"),
        pytest.param(
            ["--dataset", "digit", "--eps", "1/8"],
            ["unknown dataset 'digit'", "did you mean 'digits'"],
            id="dataset with eps",
        ),
        pytest.param(["--dataset", "images:nowhere"], ["images:nowhere", "check the path"], id="dataset folder"),
        pytest.param(["--norm", "Lin"], ["unknown norm 'Lin'", "did you mean 'Linf'", "L1, L2, Linf"], id="norm"),
        pytest.param(["--split", "tests"], ["unknown split 'tests'", "did you mean 'test'"], id="split"),
        pytest.param(["--eps", "0"], ["eps 0 is not above 0", "such as 8/255"], id="eps 0"),
        pytest.param(["--eps=-1/255"], ["eps -1/255 is not above 0", "such as 8/255"], id="negative eps"),
        pytest.param(["--eps", "8"], ["eps 8 is over 1", "did you mean 8/255?"], id="eps in 255ths"),
        pytest.param(["--eps", "1/10,8"], ["eps 8 is over 1", "did you mean 8/255?"], id="one eps of two"),
        pytest.param(["--eps", "small"], ["eps 'small' is not a number", "such as 8/255"], id="eps in words"),
        pytest.param(["--eps", "nan"], ["eps 'nan' is not a number", "such as 8/255"], id="eps nan"),
        pytest.param(["--eps", "1/0"], ["eps '1/0' is not a number", "such as 8/255"], id="eps over zero"),
        pytest.param(["--eps", "1/10,"], ["eps '' is not a number", "such as 8/255"], id="eps after a comma"),
        pytest.param(["--norm", "L2", "--eps", "9"], ["eps 9 is over 8", "smaller eps"], id="L2 ball over the box"),
        pytest.param(["--norm", "L2"], ["digits has no default radius for L2", "--eps"], id="norm without eps"),
        pytest.param(["--norm", "L1", "--eps", "1"], ["pgd has no L1 version", "autoattack"], id="attack without norm"),
        pytest.param(["--n-examples", "361"], ["361", "from 1 to 360"], id="more examples than there are"),
        pytest.param(["--n-examples", "0"], ["cannot choose 0 examples", "from 1 to 360"], id="no examples"),
        pytest.param(["--subset", "all"], ["'all' and n_examples 20 exclude each other", "one of"], id="two choices"),
        pytest.param(["--attack", "fgsm"], ["--steps is for --attack pgd", "leave it out"], id="steps of fgsm"),
        pytest.param(["--steps", "0"], ["steps 0 is not at least 1", "such as 20"], id="no steps"),
        pytest.param(["--relative-step-size", "3"], ["step size 3.0 is not in (0, 2]", "such as 0.1"], id="step size"),
        pytest.param(["--device", "tpu"], ["device 'tpu' is unknown", "use cpu, cuda"], id="unknown device"),
        pytest.param(["--device", "meta"], ["device 'meta' is not supported", "use cpu, cuda"], id="odd device"),
        pytest.param(["--device", "cuda:99"], ["device 'cuda:99' is not there", "--device cpu"], id="absent device"),
        pytest.param(["--block-size", "0"], ["block size 0 is not at least 1", "leave it at 1000"], id="block size"),
        pytest.param(["--micro-batch", "0"], ["micro-batch 0 is not at least 1", "leave it out"], id="micro-batch"),
    ],
)
def test_a_value_that_cannot_be(arguments: list[str], fragments: list[str], here: Path, mixbench: Run) -> None:
    assert mixbench(*_FROZEN, *arguments).refuses(*fragments)
    assert tree(here) == {}


def test_a_subset_that_the_dataset_does_not_have(here: Path, mixbench: Run) -> None:
    outcome = mixbench("eval", "--model", "convmixer_frozen", "--attack", "fgsm", "--subset", "test_1k")
    assert outcome.refuses("unknown subset 'test_1k'", "available: all")
    assert tree(here) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_where_there_is_none(here: Path, mixbench: Run) -> None:
    assert mixbench(*_FROZEN, "--device", "cuda").refuses("device 'cuda' is not there", "use --device cpu")
    assert tree(here) == {}


@pytest.mark.parametrize(
    ("factory", "fragments"),
    [
        ("probabilities", ["returned probabilities", "every row sums to 1", "remove its final softmax"]),
        ("not_a_number", ["NaN", "weights"]),
        ("five_classes", ["returned 5 classes and the dataset has 10", "choose a model"]),
        ("stuck_in_train_mode", ["train mode", "model.eval()"]),
        ("no_network", ["no_network returned a str", "expected a torch.nn.Module"]),
        ("needs_an_argument", ["needs_an_argument", "without arguments"]),
        ("raises", ["factories:raises", "KeyError", "weights_v2"]),
        ("raises_in_forward", ["KeyError", "no head for"]),
        ("photos", ["cannot take images of 1x8x8", "choose a dataset"]),
    ],
)
def test_a_network_that_breaks_the_contract(factory: str, fragments: list[str], here: Path, mixbench: Run) -> None:
    assert mixbench(*_EVAL, "--model", _OWN + factory, "--dataset", "digits").refuses(*fragments)
    assert tree(here) == {}


def test_autoattack_on_three_classes(here: Path, tmp_path: Path, mixbench: Run) -> None:
    folder = save_digits(tmp_path / "three", classes=3, n=12)
    outcome = mixbench(
        *("eval", "--model", f"{_OWN}three_classes", "--dataset", f"images:{folder}", "--eps", "1/10"),
        *("--attack", "autoattack"),
    )
    assert outcome.refuses("3 classes", "pgd")
    assert tree(here) == {}


def test_pictures_of_another_size_than_the_model_takes(here: Path, tmp_path: Path, mixbench: Run) -> None:
    for label in range(10):
        path = tmp_path / "large" / str(label) / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((28, 28), 20 * label, dtype=np.uint8)).save(path)
    outcome = mixbench(
        *("eval", "--model", "convmixer_frozen", "--attack", "fgsm", "--eps", "1/10"),
        *("--dataset", f"images:{tmp_path / 'large'}"),
    )
    assert outcome.refuses("convmixer_frozen.digits takes images of 1x8x8", "has 1x28x28", "choose")
    assert tree(here) == {}


def test_a_workspace_of_another_protocol(here: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (*_EVAL, "--model", f"{_OWN}nearest_mean", "--dataset", "digits", "--workspace", "w")
    monkeypatch.setattr(factories, "PASSES_UNTIL_CTRL_C", 4)
    assert mixbench(*command, "--eps", "1/20,1/10").code == 130
    monkeypatch.setattr(factories, "PASSES_UNTIL_CTRL_C", None)
    before = tree(here)
    assert mixbench(*command, "--eps", "1/5").refuses("w holds the finished blocks of another run", "--workspace")
    assert tree(here) == before


Damage = Callable[[Path], None]


def _truncate(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-1000])


def _flip_last_bit(weights: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def _web_page(weights: Path) -> None:
    weights.write_text("<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n")


def _pickle(weights: Path) -> None:
    torch.save(load(weights.read_bytes()), weights)


def _thinner(weights: Path) -> None:
    tensors = load(weights.read_bytes())
    tensors.pop(next(iter(tensors)))
    save_file(tensors, weights)


@pytest.mark.parametrize(
    ("damage", "fragments"),
    [
        pytest.param(_truncate, ["not a readable safetensors file", "fetch it again"], id="truncated"),
        pytest.param(_flip_last_bit, ["has SHA-256", "its card says", "fetch it again"], id="another hash"),
        pytest.param(_web_page, ["is an HTML page, not weights", "fetch the file itself"], id="web page"),
        pytest.param(_pickle, ["is a pickle", "convert it to safetensors"], id="pickle"),
    ],
)
def test_a_checkpoint_folder_that_is_damaged(
    damage: Damage, fragments: list[str], here: Path, tmp_path: Path, mixbench: Run
) -> None:
    folder = tmp_path / "convmixer_frozen.mine"
    shutil.copytree(zoo_folder() / "convmixer_frozen.digits", folder)
    damage(folder / "model.safetensors")
    for model in (["--model", f"local-dir:{folder}"], ["--model", "convmixer_frozen", "--checkpoint", folder]):
        assert mixbench(*_EVAL, *model, "--dataset", "digits").refuses("model.safetensors", *fragments)
    assert tree(here) == {}


@pytest.mark.parametrize(
    ("damage", "fragments"),
    [
        pytest.param(_truncate, ["not a readable safetensors file", "fetch it again"], id="truncated"),
        pytest.param(_web_page, ["is an HTML page, not weights", "fetch the file itself"], id="web page"),
        pytest.param(_pickle, ["is a pickle", "--trust-pickle"], id="pickle"),
        pytest.param(_thinner, ["lacks the tensor", "another architecture"], id="a tensor less"),
        pytest.param(Path.unlink, ["cannot read the checkpoint", "check the path"], id="no file"),
    ],
)
def test_a_file_of_weights_that_is_none(
    damage: Damage, fragments: list[str], here: Path, tmp_path: Path, mixbench: Run
) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(factories.NearestMean().state_dict(), weights)
    damage(weights)
    command = (*_EVAL, "--model", "tests.cli.factories:NearestMean", "--dataset", "digits", "--checkpoint", weights)
    assert mixbench(*command).refuses(str(weights), *fragments)
    assert tree(here) == {}


def test_a_runs_folder_below_a_file(here: Path, mixbench: Run) -> None:
    (here / "notes.txt").write_text("keep me")
    assert mixbench(*_FROZEN, "--runs", "notes.txt/runs").refuses("cannot write notes.txt", "choose another folder")
    assert tree(here) == {"notes.txt": b"keep me"}


@pytest.mark.parametrize("room", [100, 2000], ids=["for nothing", "for the manifest only"])
def test_no_disk_space(room: int, here: Path, mixbench: Run) -> None:
    """A file size limit stands in for a full disk: both fail in the middle of a write."""
    command = (*_FROZEN, "--eps", "1/20,1/10")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        outcome = mixbench(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.refuses("cannot write ", "make room or choose another folder", "run the same command again")
    assert [name for name in tree(here) if name.endswith((".part", ".npz", "record.json", "examples.parquet"))] == []
    assert mixbench(*command).code == 0


@pytest.mark.parametrize("dataset", ["cifar10", "mnist"])
def test_a_dataset_to_download_without_network(
    dataset: str, here: Path, tmp_path: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert mixbench(*_FROZEN, "--dataset", dataset).refuses("could not download", "check the network", "--data-dir")
    assert tree(here) == {}
    assert [name for name in tree(tmp_path / "cache") if not name.endswith("downloads")] == []
