"""How many parameters of a model mix what, and how many of them learn."""

from dataclasses import dataclass
from enum import StrEnum

from torch import nn

from mixbench.mixers.find import Mixer, Place, classifier_of, find


class Group(StrEnum):
    """What a parameter belongs to."""

    STEM = "stem"
    SPATIAL = "spatial"
    CHANNEL = "channel"
    SHORTCUT = "shortcut"
    FULL = "full"
    NORMALISATION = "normalisation"
    CLASSIFIER = "classifier"
    OTHER = "other"


@dataclass(frozen=True)
class MixerRow:
    """The parameters of one group.

    Attributes:
        group: What they belong to; the first five groups are the mixers.
        parameters: How many there are; a shared tensor counts once.
        trained: How many of them learn.
    """

    group: Group
    parameters: int
    trained: int

    @property
    def frozen(self) -> int:
        """How many of them do not learn."""
        return self.parameters - self.trained


def describe(model: nn.Module) -> tuple[MixerRow, ...]:
    """Return one row for each group, empty ones too, that add up to all parameters of `model`."""
    groups = _group_of_modules(model)
    parameters = dict.fromkeys(Group, 0)
    trained = dict.fromkeys(Group, 0)
    for name, parameter in model.named_parameters():
        group = _group_of(name.rpartition(".")[0], groups)
        parameters[group] += parameter.numel()
        trained[group] += parameter.numel() if parameter.requires_grad else 0
    return tuple(MixerRow(group, parameters[group], trained[group]) for group in Group)


def _group_of_modules(model: nn.Module) -> dict[str, Group]:
    """Return the group of each module that decides it for itself and for all inside."""
    classifier = {id(module) for module in classifier_of(model)}
    groups: dict[str, Group] = {}
    for name, module in model.named_modules():
        if id(module) in classifier:
            groups[name] = Group.CLASSIFIER
        elif "norm" in type(module).__name__.lower() and any(True for _ in module.parameters(recurse=False)):
            groups[name] = Group.NORMALISATION
    return groups | {mixer.name: _group_of_mixer(mixer) for mixer in find(model)}


def _group_of_mixer(mixer: Mixer) -> Group:
    if mixer.place is Place.BODY:
        return Group(mixer.role.value)
    return Group(mixer.place.value)


def _group_of(owner: str, groups: dict[str, Group]) -> Group:
    """Return the group of the module `owner`, or of the nearest one around it that has one."""
    while owner not in groups:
        if not owner:
            return Group.OTHER
        owner = owner.rpartition(".")[0]
    return groups[owner]
