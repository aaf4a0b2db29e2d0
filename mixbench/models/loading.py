"""From a name on the command line to a network that takes images in [0, 1] and returns logits."""

import importlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from jaxtyping import Float
from torch import Tensor, nn

from mixbench.errors import CheckpointError, InvalidInputError, MixbenchError, UnknownNameError
from mixbench.models.architectures import ARCHITECTURES
from mixbench.models.checkpoints import CONFIG_NAME, WEIGHTS_NAME, Checkpoint, count_parameters, load_checkpoint
from mixbench.models.identity import function_hash
from mixbench.models.weights import StateDict, load_into, read_state_dict
from mixbench.models.zoo import FIRST_TAG, zoo_folder, zoo_names
from mixbench.records import ModelIdentity


class PixelModel(nn.Module):
    """A network that was trained on normalised images, made to take images in [0, 1]."""

    def __init__(self, model: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch logit"]:
        """Return the logits of `images` in [0, 1]."""
        mean: Any = self.mean
        std: Any = self.std
        return self.model((images - mean) / std)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network ready to be evaluated, and what a record says of it.

    Attributes:
        module: In eval mode, on the CPU; images in [0, 1] to logits.
        identity: Name, hash, mixing and parameter counts.
        image_size: Channels, height and width it expects; None when unknown.
        dataset: The data it was trained on; None when unknown.
    """

    module: nn.Module
    identity: ModelIdentity
    image_size: tuple[int, int, int] | None
    dataset: str | None


def load_model(name: str, *, checkpoint: Path | None = None, trust_pickle: bool = False) -> LoadedModel:
    """Return the network called `name`, with pretrained weights or those of `checkpoint`.

    `name` is a zoo name (`convmixer_frozen.digits`; without a tag, its first one), `local-dir:FOLDER`, `hf-hub:ID`,
    `timm:NAME`, or `package.module:factory` for code that is importable. A pickle is refused without `trust_pickle`,
    and only its tensors are loaded with it. The exception is `timm:NAME`, whose weights timm chooses and fetches
    itself: safetensors where there are any. Raises UnknownNameError or CheckpointError.
    """
    prefix, _, rest = name.partition(":")
    if prefix in ("local-dir", "hf-hub") and checkpoint is not None:
        raise InvalidInputError(
            f"{name} brings its own weights: leave out --checkpoint {checkpoint}, or name an architecture"
        )
    if prefix == "timm":
        return _timm_model(rest, checkpoint, trust_pickle=trust_pickle)
    if prefix == "local-dir":
        return _from_checkpoint(load_checkpoint(Path(rest)), name=Path(rest).resolve().name)
    if prefix == "hf-hub":
        return _hub_model(rest, trust_pickle=trust_pickle)
    if rest:
        return _factory_model(name, checkpoint, trust_pickle=trust_pickle)
    if checkpoint is not None:
        return _own_architecture(name, checkpoint, trust_pickle=trust_pickle)
    tagged = f"{name}.{FIRST_TAG}" if name in ARCHITECTURES else name
    if tagged not in zoo_names():
        raise UnknownNameError("model", name, zoo_names(), forms=("timm:NAME", "local-dir:FOLDER", "hf-hub:ID"))
    return _from_checkpoint(load_checkpoint(zoo_folder() / tagged), name=tagged)


def _from_checkpoint(checkpoint: Checkpoint, *, name: str) -> LoadedModel:
    card = checkpoint.card
    identity = ModelIdentity(
        name=name,
        sha256=card.sha256,
        mixing=card.mixing,
        filter_seed=None if card.mixing == "trained" else card.filter_seed,
        parameters=count_parameters(checkpoint.model),
    )
    return LoadedModel(checkpoint.model, identity, image_size=card.image_size, dataset=card.dataset)


def _own_architecture(name: str, path: Path, *, trust_pickle: bool) -> LoadedModel:
    """Load weights for one of the registered architectures: a checkpoint folder, or a file of the size `name` has."""
    architecture = name.partition(".")[0]
    if architecture not in ARCHITECTURES:
        raise UnknownNameError("architecture", architecture, ARCHITECTURES)
    folder = path.parent if path.name == WEIGHTS_NAME else path
    if (folder / CONFIG_NAME).is_file():
        checkpoint = load_checkpoint(folder)
        found = checkpoint.spec.architecture.name
        if found != architecture:
            raise CheckpointError(f"{folder} is a checkpoint of {found}, not of {architecture}: ask for {found}")
        return _from_checkpoint(checkpoint, name=folder.resolve().name)
    with torch.random.fork_rng(devices=[]):
        # A tag of the zoo says which size; the architecture alone means its default one.
        model = timm.create_model(name if name in zoo_names() else architecture)
    load_into(model, read_state_dict(path, trust_pickle=trust_pickle), source=str(path))
    # Without a card nothing proves that the filters are frozen draws, so the record does not say so.
    return _foreign(model, name=name, image_size=None)


def _timm_model(name: str, path: Path | None, *, trust_pickle: bool) -> LoadedModel:
    bare = name.partition(".")[0]
    if not timm.is_model(bare):
        raise UnknownNameError("timm model", bare, timm.list_models())
    with torch.random.fork_rng(devices=[]):
        try:
            model = timm.create_model(name, pretrained=path is None)
        except MixbenchError:
            raise
        except Exception as error:  # timm and the hub client raise whatever their transport raises
            raise CheckpointError(
                f"timm could not build {name} with pretrained weights ({error}): check the network and the tag, or"
                " pass --checkpoint"
            ) from error
    if path is not None:
        load_into(model, read_state_dict(path, trust_pickle=trust_pickle), source=str(path))
    cfg: Any = model.pretrained_cfg
    pixel_model = PixelModel(model, mean=tuple(cfg["mean"]), std=tuple(cfg["std"]))
    channels, height, width = cfg["input_size"]
    return _foreign(pixel_model, name=f"timm:{name}", image_size=(channels, height, width))


def _hub_model(name: str, *, trust_pickle: bool) -> LoadedModel:
    try:
        config = json.loads(_download(name, CONFIG_NAME).read_text())
        if config["architecture"] in ARCHITECTURES:
            folder = _download(name, WEIGHTS_NAME).parent
            return _from_checkpoint(load_checkpoint(folder), name=f"hf-hub:{name}")
        weights = _hub_weights(name, trust_pickle=trust_pickle)
        # Left alone, timm would let the stranger's config name a file that it unpickles.
        overlay = {"source": "", "state_dict": weights, "file": None, "custom_load": False}
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(f"hf-hub:{name}", pretrained=True, pretrained_cfg_overlay=overlay)
    except MixbenchError:
        raise
    except Exception as error:  # the hub client raises whatever its transport raises
        raise CheckpointError(f"cannot load hf-hub:{name} ({error}): check the network and the name") from error
    cfg: Any = model.pretrained_cfg
    cfg.pop("state_dict")  # a second copy of the weights
    pixel_model = PixelModel(model, mean=tuple(cfg["mean"]), std=tuple(cfg["std"]))
    return _foreign(pixel_model, name=f"hf-hub:{name}", image_size=tuple(cfg["input_size"]))


def _hub_weights(name: str, *, trust_pickle: bool) -> StateDict:
    try:
        path = _download(name, WEIGHTS_NAME)
    except EntryNotFoundError:
        path = _download(name, "pytorch_model.bin")
    return read_state_dict(path, trust_pickle=trust_pickle)


def _download(name: str, file: str) -> Path:
    repository, _, revision = name.partition("@")
    return Path(hf_hub_download(repository, file, revision=revision or None))


def _factory_model(name: str, path: Path | None, *, trust_pickle: bool) -> LoadedModel:
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
        inspect.signature(factory).bind()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"cannot import the model {name} ({error}): expected package.module:factory, a function without"
            " arguments that returns a network, in a folder that is on PYTHONPATH"
        ) from None
    try:
        with torch.random.fork_rng(devices=[]):
            model = factory()
    except MixbenchError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise InvalidInputError(
            f"{name} raised {type(error).__name__} ({error}): call it by itself to see where, and mend it"
        ) from error
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"{name} returned a {type(model).__name__}, expected a torch.nn.Module")
    if path is not None:
        load_into(model, read_state_dict(path, trust_pickle=trust_pickle), source=str(path))
    return _foreign(model, name=name, image_size=None, code=(module_name,))


def _foreign(
    model: nn.Module, *, name: str, image_size: tuple[int, int, int] | None, code: tuple[str, ...] = ()
) -> LoadedModel:
    identity = ModelIdentity(
        name=name,
        sha256=function_hash(model.eval(), image_size=image_size, code=code),
        mixing="foreign",
        filter_seed=None,
        parameters=count_parameters(model),
    )
    return LoadedModel(model, identity, image_size=image_size, dataset=None)
