"""Models that differ in nothing but how space is mixed, registered with timm; checkpoints that prove what they are.

Importing this package makes `timm.create_model("convmixer_frozen.digits", pretrained=True)` work.
"""

from mixbench.models.architectures import ARCHITECTURES, FAMILIES, Architecture, ModelSpec
from mixbench.models.channel_major import ChannelMajorConvMixer, ChannelMajorResNet, is_separated_resnet
from mixbench.models.checkpoints import (
    Checkpoint,
    CheckpointCard,
    count_parameters,
    load_checkpoint,
    logits_fingerprint,
    read_config,
    save_checkpoint,
    weights_bytes,
)
from mixbench.models.executors import Executor, executor_for
from mixbench.models.loading import LoadedModel, load_model
from mixbench.models.registration import default_cfgs
from mixbench.models.zoo import zoo_folder, zoo_names

__all__ = [
    "ARCHITECTURES",
    "FAMILIES",
    "Architecture",
    "ChannelMajorConvMixer",
    "ChannelMajorResNet",
    "Checkpoint",
    "CheckpointCard",
    "Executor",
    "LoadedModel",
    "ModelSpec",
    "count_parameters",
    "default_cfgs",
    "executor_for",
    "is_separated_resnet",
    "load_checkpoint",
    "load_model",
    "logits_fingerprint",
    "read_config",
    "save_checkpoint",
    "weights_bytes",
    "zoo_folder",
    "zoo_names",
]
