"""A checkpoint folder to damage, and the means to damage it so that only one proof can notice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixbench.files import sha256_of
from mixbench.models import (
    ARCHITECTURES,
    Checkpoint,
    CheckpointCard,
    ModelSpec,
    count_parameters,
    logits_fingerprint,
    read_config,
    save_checkpoint,
    weights_bytes,
)
from mixbench.models.checkpoints import CONFIG_NAME, WEIGHTS_NAME
from mixbench.records import Accuracy

MakeCheckpoint = Callable[..., Checkpoint]
EditConfig = Callable[[Callable[[dict[str, Any]], None]], None]
EditTensors = Callable[[Callable[[dict[str, Tensor]], None]], None]


@pytest.fixture
def make_checkpoint() -> MakeCheckpoint:
    """A function that makes an untrained checkpoint in the size for digits."""

    def make(architecture: str = "convmixer_frozen", *, seed: int = 0, filter_seed: int = 3) -> Checkpoint:
        spec = ModelSpec.for_dataset(ARCHITECTURES[architecture], "digits", filter_seed=filter_seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = spec.build().eval()
        card = CheckpointCard(
            sha256=weights_bytes(model)[1],
            logits=logits_fingerprint(model, (1, 8, 8)),
            mixing=spec.architecture.mixing.value,
            filter_scheme=str(spec.scheme),
            filter_seed=filter_seed,
            seed=seed,
            recipe="none",
            dataset="digits",
            dataset_fingerprint="0" * 64,
            image_size=(1, 8, 8),
            clean=Accuracy(correct=36, total=360),
            parameters=count_parameters(model),
            epochs=0,
            seconds=0.0,
            device="cpu",
            command="none",
        )
        return Checkpoint(spec=spec, model=model, card=card)

    return make


@pytest.fixture
def folder(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Path:
    """The folder of a sound checkpoint."""
    folder = tmp_path / "convmixer_frozen.toy"
    save_checkpoint(folder, make_checkpoint(), card_text="# toy\n", overwrite=False)
    return folder


@pytest.fixture
def edit_config(folder: Path) -> EditConfig:
    """A function that changes the config.json of `folder`."""

    def edit(change: Callable[[dict[str, Any]], None]) -> None:
        config = json.loads((folder / CONFIG_NAME).read_text())
        change(config)
        (folder / CONFIG_NAME).write_text(json.dumps(config))

    return edit


@pytest.fixture
def edit_tensors(folder: Path, edit_config: EditConfig) -> EditTensors:
    """A function that changes the weights of `folder` and makes hash and logits anew, as a careful forger would."""

    def edit(change: Callable[[dict[str, Tensor]], None]) -> None:
        tensors = load_file(folder / WEIGHTS_NAME)
        change(tensors)
        save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
        spec, card = read_config(folder)
        model = spec.build()
        model.load_state_dict(tensors, strict=False)
        sealed = {"sha256": sha256_of(folder / WEIGHTS_NAME), "logits": logits_fingerprint(model, card.image_size)}
        edit_config(lambda config: config["mixbench"].update(sealed))

    return edit
