"""What a training run keeps on disk to go on after `kill -9`."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixbench.errors import RecordError
from mixbench.files import write_atomically
from mixbench.training.log import Epoch, epoch_from, values_of

STATE_NAME = "state.pt"
_FORMAT = "mixbench.training_state/1"


@dataclass(frozen=True)
class TrainingState:
    """A run after a whole epoch.

    Attributes:
        epochs: How each epoch so far went.
        model: State dict of the network.
        optimizer: State dict of the optimiser.
        generator: State of the random generator.
    """

    epochs: tuple[Epoch, ...]
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    generator: torch.Tensor

    @classmethod
    def of(
        cls, epochs: tuple[Epoch, ...], model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> "TrainingState":
        """Return the present state."""
        return cls(epochs, model.state_dict(), optimizer.state_dict(), generator.get_state())

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """Bring all three to this state."""
        model.load_state_dict(dict(self.model))
        optimizer.load_state_dict(dict(self.optimizer))
        generator.set_state(self.generator)


@dataclass(frozen=True)
class TrainingFolder:
    """The folder of one run; `key` says which run its state belongs to."""

    folder: Path
    key: str

    @property
    def path(self) -> Path:
        """Where the state is."""
        return self.folder / STATE_NAME

    def save(self, state: TrainingState) -> None:
        """Keep `state` in place of the one before, in one step; raises RecordError if it cannot be written."""
        buffer = io.BytesIO()
        values = {
            "format": _FORMAT,
            "key": self.key,
            "epochs": [values_of(epoch) for epoch in state.epochs],
            "model": dict(state.model),
            "optimizer": dict(state.optimizer),
            "generator": state.generator,
        }
        torch.save(values, buffer)
        write_atomically(self.path, buffer.getvalue())

    def load(self, *, device: torch.device) -> TrainingState | None:
        """Return the state kept here, or None where there is none or it is damaged: then training begins anew.

        Raises RecordError if it belongs to another run.
        """
        try:
            found = torch.load(io.BytesIO(self.path.read_bytes()), map_location=device, weights_only=True)
            format_, key = found["format"], found["key"]
            state = TrainingState(
                tuple(epoch_from(row) for row in found["epochs"]),
                found["model"],
                found["optimizer"],
                # The state of a generator is kept on the host, whatever its device.
                found["generator"].cpu(),
            )
        except FileNotFoundError:
            return None
        except Exception:  # noqa: BLE001 - torch's unpickler raises whatever it stumbles over; the run can be repeated
            return None
        if (format_, key) != (_FORMAT, self.key):
            raise RecordError(f"{self.path} is the state of another training run: choose another folder, or delete it")
        return state

    def remove(self) -> None:
        """Delete the state, and the folder if that leaves it empty."""
        self.path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
