"""The eight architectures as timm models, with the zoo's checkpoints as their tags."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from mixbench.errors import CheckpointError, UnknownNameError
from mixbench.models.architectures import ARCHITECTURES, FAMILIES, ModelSpec
from mixbench.models.checkpoints import CONFIG_NAME, WEIGHTS_NAME, fill_and_prove, read_config
from mixbench.models.zoo import zoo_folder, zoo_names


def _untrained_cfg(name: str) -> dict[str, Any]:
    family = FAMILIES[ARCHITECTURES[name].family]
    return {
        "input_size": (3, 32, 32),
        "num_classes": 10,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "crop_pct": 1.0,
        "first_conv": family.first_conv,
        "classifier": family.classifier,
    }


def _zoo_cfgs() -> dict[str, Any]:
    """Return timm's pretrained_cfg of each zoo checkpoint; one that cannot be read is left to `load_model` to name."""
    cfgs: dict[str, Any] = {}
    for name in zoo_names():
        folder = zoo_folder() / name
        try:
            cfg = json.loads((folder / CONFIG_NAME).read_text())["pretrained_cfg"]
            cfgs[name] = {**cfg, "tag": None, "input_size": tuple(cfg["input_size"]), "file": str(folder)}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return cfgs


# timm makes the first tag with weights the default of its architecture.
_cfgs = _zoo_cfgs()
_without_weights = set(ARCHITECTURES) - {name.partition(".")[0] for name in _cfgs}
default_cfgs = generate_default_cfgs(_cfgs | {name: _untrained_cfg(name) for name in sorted(_without_weights)})


def _checkpoint_folder(pretrained_cfg: dict[str, Any]) -> Path:
    """Return the folder that the pretrained weights of `pretrained_cfg` lie in, downloaded if they are on a hub."""
    if pretrained_cfg.get("file"):
        folder = Path(pretrained_cfg["file"])
        return folder.parent if folder.is_file() else folder
    if pretrained_cfg.get("hf_hub_id"):
        repository = pretrained_cfg["hf_hub_id"]
        hf_hub_download(repository, CONFIG_NAME)
        return Path(hf_hub_download(repository, WEIGHTS_NAME)).parent
    raise CheckpointError(
        f"there are no pretrained weights for {pretrained_cfg.get('architecture')}: see mixbench models for the zoo"
    )


def _build(name: str, *, filter_scheme: str | None = None, filter_seed: int = 0, **args: Any) -> nn.Module:
    model_args = {**args, "filter_seed": filter_seed, "filter_scheme": filter_scheme}
    return ModelSpec.from_model_args(ARCHITECTURES[name], model_args).build()


def _saved_args(name: str) -> dict[str, Any]:
    if name not in zoo_names():
        raise UnknownNameError("model", name, zoo_names())
    return read_config(zoo_folder() / name)[0].model_args


def _create(name: str, *, pretrained: bool, **kwargs: Any) -> nn.Module:
    """Build `name` as timm asks for it; with `pretrained`, every proof of the checkpoint is checked."""
    cfg = kwargs.pop("pretrained_cfg", None)
    if cfg is None:
        cfg = (default_cfgs[name].tags[0] or None) if pretrained else _untrained_cfg(name)
    args = _saved_args(f"{name}.{cfg}") if isinstance(cfg, str) else FAMILIES[ARCHITECTURES[name].family].default_args
    # timm passes the arguments of a local or hub config.json to be told apart from the caller's own.
    kwargs.pop("pretrained_model_args", None)
    timm_args: dict[str, Any] = {"pretrained_cfg": cfg, **args, **kwargs}
    model: Any = build_model_with_cfg(partial(_build, name), name, pretrained=False, **timm_args)
    if pretrained:
        folder = _checkpoint_folder(model.pretrained_cfg)
        spec, card = read_config(folder)
        fill_and_prove(model, folder, spec=spec, card=card)
    return model


def convmixer_trained(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: FBT001, FBT002 - timm's signature
    """ConvMixer, everything learns (the paper's Full)."""
    return _create("convmixer_trained", pretrained=pretrained, **kwargs)


def convmixer_frozen(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: FBT001, FBT002 - timm's signature
    """ConvMixer, spatial mixers frozen at random (the paper's Chans)."""
    return _create("convmixer_frozen", pretrained=pretrained, **kwargs)


def convmixer_frozen_smooth(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: FBT001, FBT002 - timm's
    """ConvMixer, spatial mixers frozen at smoothed random filters."""
    return _create("convmixer_frozen_smooth", pretrained=pretrained, **kwargs)


def convmixer_spatial(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: FBT001, FBT002 - timm's signature
    """ConvMixer, channel mixers frozen at random (the paper's Space)."""
    return _create("convmixer_spatial", pretrained=pretrained, **kwargs)


def resnet_trained(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: FBT001, FBT002 - timm's signature
    """Separated ResNet, everything learns (the paper's Full)."""
    return _create("resnet_trained", pretrained=pretrained, **kwargs)


def resnet_frozen(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: FBT001, FBT002 - timm's signature
    """Separated ResNet, spatial mixers frozen at random (the paper's Chans)."""
    return _create("resnet_frozen", pretrained=pretrained, **kwargs)


def resnet_frozen_smooth(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: FBT001, FBT002 - timm's
    """Separated ResNet, spatial mixers frozen at smoothed random filters."""
    return _create("resnet_frozen_smooth", pretrained=pretrained, **kwargs)


def resnet_spatial(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: FBT001, FBT002 - timm's signature
    """Separated ResNet, channel mixers frozen at random (the paper's Space)."""
    return _create("resnet_spatial", pretrained=pretrained, **kwargs)


for _entry in (
    convmixer_trained,
    convmixer_frozen,
    convmixer_frozen_smooth,
    convmixer_spatial,
    resnet_trained,
    resnet_frozen,
    resnet_frozen_smooth,
    resnet_spatial,
):
    register_model(_entry)
