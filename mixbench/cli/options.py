"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

from mixbench.errors import InvalidInputError

DataDir = Annotated[
    Path | None,
    typer.Option(envvar="MIXBENCH_DATA_DIR", help="Folder of data that is there already, or is to be downloaded to."),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(envvar="MIXBENCH_CACHE_DIR", help="Folder for decoded images. [default: the user's cache folder]"),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]


def cache_folder(chosen: Path | None) -> Path:
    """Return the folder for caches: the chosen one or the platform's."""
    if chosen is not None:
        return chosen
    import platformdirs

    return Path(platformdirs.user_cache_dir("mixbench"))


def resolve_device(name: str) -> str:
    """Return the torch device called `name`; raises InvalidInputError if this machine has none."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InvalidInputError(f"device {name!r} is unknown: use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidInputError(
            f"device {name!r} is not there ({torch.cuda.device_count()} CUDA devices are visible): use --device cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise InvalidInputError(f"device {name!r} is not supported: use cpu, cuda or cuda:N")
    return name
