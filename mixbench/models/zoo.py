"""The checkpoints that come with mixbench."""

from pathlib import Path

from mixbench.errors import CheckpointError
from mixbench.models.checkpoints import CONFIG_NAME

FIRST_TAG = "digits"
"""A name without a tag means this one: its data is part of the installation."""


def zoo_folder() -> Path:
    """Return the folder `model_zoo`: inside the installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "model_zoo", package.parent / "model_zoo"):
        if folder.is_dir():
            return folder
    raise CheckpointError(f"model_zoo is missing beside {package}: install mixbench again")


def zoo_names() -> tuple[str, ...]:
    """Return every `architecture.tag` of the zoo, the first tag of each architecture first."""
    # Folders that begin with a dot are checkpoints still being written.
    names = [path.parent.name for path in zoo_folder().glob(f"[!.]*.*/{CONFIG_NAME}")]
    return tuple(sorted(names, key=lambda name: (name.partition(".")[0], name.partition(".")[2] != FIRST_TAG, name)))
