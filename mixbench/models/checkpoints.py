"""Checkpoint folders in timm's local-dir layout, and the proofs that a checkpoint is what its card says.

config.json          architecture, model_args, pretrained_cfg, and the card under the key "mixbench"
model.safetensors    the weights
README.md            the model card
training.csv         how each epoch of its training went
"""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from safetensors.torch import save
from torch import Tensor, nn

from mixbench.errors import CheckpointError, UnknownNameError
from mixbench.files import storage_error, write_atomically
from mixbench.mixers import frozen_proof
from mixbench.models.architectures import ARCHITECTURES, FAMILIES, ModelSpec
from mixbench.models.weights import StateDict, load_into, parse_state_dict, read_weights
from mixbench.records import Accuracy, ParameterCounts

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
LOG_NAME = "training.csv"
_FINGERPRINT_IMAGES = 4
_LOGITS_TOLERANCE = 1e-4

_Side = Annotated[int, Field(gt=0, le=4096)]
ImageSize = tuple[_Side, _Side, _Side]


class CheckpointCard(BaseModel):
    """What a checkpoint says of itself.

    Attributes:
        sha256: Hash of model.safetensors.
        logits: The logits on the fixed inputs, the proof that this code still computes the same function.
        mixing: How space is mixed; `filter_scheme` and `filter_seed` redraw whatever is frozen.
        seed: The training seed.
        dataset: Name of the training data, `dataset_fingerprint` the hash of its training split.
        clean: Clean accuracy on the whole test split.
        validation: Clean accuracy on the examples that training held out; None where it held out none.
        command: What made it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["mixbench.checkpoint/1"] = "mixbench.checkpoint/1"
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    logits: tuple[tuple[float, ...], ...]
    mixing: Literal["trained", "frozen", "frozen_smooth", "spatial"]
    filter_scheme: str
    filter_seed: int
    seed: int
    recipe: str
    dataset: str
    dataset_fingerprint: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    image_size: ImageSize
    clean: Accuracy
    validation: Accuracy | None = None
    parameters: ParameterCounts
    epochs: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]
    device: str
    command: str


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network with its spec and card."""

    spec: ModelSpec
    model: nn.Module
    card: CheckpointCard


def fixed_inputs(image_size: ImageSize) -> Float[Tensor, "batch channel height width"]:
    """Return four images of uniform noise in [0, 1], the same on every machine."""
    count = _FINGERPRINT_IMAGES * int(np.prod(image_size))
    raw = np.random.PCG64(0).random_raw(count)
    uniform = (np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy(uniform.astype(np.float32)).reshape(_FINGERPRINT_IMAGES, *image_size)


def logits_fingerprint(model: nn.Module, image_size: ImageSize) -> tuple[tuple[float, ...], ...]:
    """Return the float32 logits of `model`, in eval mode on the CPU, on the fixed inputs."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(fixed_inputs(image_size))
    model.train(was_training)
    return tuple(tuple(float(value) for value in row) for row in logits)


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Return how many parameters learn and how many are frozen."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    return ParameterCounts(trained=trained, frozen=total - trained)


def weights_bytes(model: nn.Module) -> tuple[bytes, str]:
    """Return the state dict as safetensors, and its SHA-256."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    content = save(tensors, metadata={"format": "pt"})
    return content, hashlib.sha256(content).hexdigest()


def save_checkpoint(
    folder: Path, checkpoint: Checkpoint, *, card_text: str, overwrite: bool, log: str | None = None
) -> None:
    """Write the checkpoint folder in one step; raises CheckpointError if it exists and `overwrite` is not set.

    `log` is the CSV of the training. A crash or a full disk leaves what was there before.
    """
    if folder.exists() and not overwrite:
        raise CheckpointError(f"{folder} exists already: pass --overwrite to replace it, or choose another --output")
    content, digest = weights_bytes(checkpoint.model)
    if digest != checkpoint.card.sha256:
        raise CheckpointError(f"the weights for {folder} hash to {digest}, their card says {checkpoint.card.sha256}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise storage_error(folder, error) from error
    try:
        temporary.chmod(0o755)
        write_atomically(temporary / WEIGHTS_NAME, content)
        write_atomically(temporary / CONFIG_NAME, config_json(checkpoint, tag=folder.name.partition(".")[2]).encode())
        write_atomically(temporary / "README.md", card_text.encode())
        if log is not None:
            write_atomically(temporary / LOG_NAME, log.encode())
        _swap_in(temporary, folder)
    except OSError as error:
        raise storage_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap_in(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; what was there moves aside, and back if that fails."""
    if not folder.exists():
        new.rename(folder)
        return
    old = new.with_name(f"{new.name}.old")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def config_json(checkpoint: Checkpoint, *, tag: str) -> str:
    """Return config.json, readable by timm as it stands."""
    spec, card = checkpoint.spec, checkpoint.card
    family = FAMILIES[spec.architecture.family]
    channels = card.image_size[0]
    config: dict[str, Any] = {
        "architecture": spec.architecture.name,
        "num_classes": spec.args["num_classes"],
        "model_args": spec.model_args,
        "pretrained_cfg": {
            "tag": tag,
            "input_size": list(card.image_size),
            "num_classes": spec.args["num_classes"],
            # The model takes pixels in [0, 1] as they are: nothing to normalise outside of it.
            "mean": [0.0] * channels,
            "std": [1.0] * channels,
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "first_conv": family.first_conv,
            "classifier": family.classifier,
        },
        "mixbench": card.model_dump(mode="json", exclude_none=True),
    }
    return json.dumps(config, indent=2) + "\n"


def read_config(folder: Path) -> tuple[ModelSpec, CheckpointCard]:
    """Return spec and card of the checkpoint in `folder`; raises CheckpointError."""
    path = folder / CONFIG_NAME
    try:
        config = json.loads(path.read_text())
        architecture = config["architecture"]
        if architecture not in ARCHITECTURES:
            raise UnknownNameError("architecture", str(architecture), ARCHITECTURES)
        spec = ModelSpec.from_model_args(ARCHITECTURES[architecture], config["model_args"])
        return spec, CheckpointCard.model_validate(config["mixbench"])
    except OSError as error:
        raise CheckpointError(f"{folder} is no checkpoint folder: cannot read {path} ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path} has no valid card: {place}: {first['msg']}; train or submit it again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint's config.json ({error!r}): fetch it again") from None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in `folder`, in eval mode on the CPU, with every proof checked.

    Raises CheckpointError that says which proof failed: the SHA-256, the shapes, the frozen filters (drawn again from
    their seed and compared bit for bit) or the logits on the fixed inputs.
    """
    spec, card = read_config(folder)
    with torch.random.fork_rng(devices=[]):
        model = spec.build()
    fill_and_prove(model, folder, spec=spec, card=card)
    return Checkpoint(spec=spec, model=model.eval(), card=card)


def fill_and_prove(model: nn.Module, folder: Path, *, spec: ModelSpec, card: CheckpointCard) -> None:
    """Load the weights in `folder` into `model`, built from `spec`, and check every proof of `card`."""
    path = folder / WEIGHTS_NAME
    # What is hashed must be what is loaded, so the file is read once.
    content = read_weights(path)
    # Parsing first tells a web page or a truncated file from one that is merely another.
    state_dict = parse_state_dict(content, path, trust_pickle=False)
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.sha256:
        raise CheckpointError(f"{path} has SHA-256 {digest}, its card says {card.sha256}: fetch it again")
    load_into(model, state_dict, source=str(path))
    if card.image_size[0] != spec.args.get("in_chans"):
        raise CheckpointError(
            f"{folder} says images of {card.image_size[0]} channels, but in_chans {spec.args.get('in_chans')} in"
            " model_args"
        )
    if card.mixing != spec.architecture.mixing.value:
        raise CheckpointError(f"{folder} says mixing {card.mixing!r}, but its architecture is {spec.architecture.name}")
    if (card.filter_scheme, card.filter_seed) != (str(spec.scheme), spec.filter_seed):
        raise CheckpointError(f"{folder} names two filter draws: {card.filter_scheme} and {spec.scheme} in model_args")
    _check_frozen(state_dict, path, spec)
    _check_logits(model, folder, card)


def _check_frozen(state_dict: StateDict, path: Path, spec: ModelSpec) -> None:
    # timm hangs the pretrained_cfg of config.json on its model, and its first_conv would say what the stem is, which
    # is never frozen. A network built anew has only what this code says.
    with torch.random.fork_rng(devices=[]):
        model = spec.build()
    load_into(model, state_dict, source=str(path))
    frozen_proof(model, spec.architecture.mixing, scheme=spec.scheme, filter_seed=spec.filter_seed)


def _check_logits(model: nn.Module, folder: Path, card: CheckpointCard) -> None:
    expected = np.asarray(card.logits)
    found = np.asarray(logits_fingerprint(model, card.image_size))
    if expected.shape != found.shape:
        raise CheckpointError(f"{folder} gives logits of shape {found.shape}, its card has {expected.shape}")
    difference = float(np.abs(found - expected).max())
    if not difference <= _LOGITS_TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise CheckpointError(
            f"{folder} gives other logits than when it was saved (largest difference {difference:.3g}): this timm or"
            " torch builds another network, so install the versions of its card"
        )
