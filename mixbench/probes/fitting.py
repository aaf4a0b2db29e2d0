"""Training of one decoder: repeatable from its seed, on the fast path of its device, kept after each epoch."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from mixbench.errors import MixbenchError
from mixbench.files import write_atomically
from mixbench.probes.decoder import ChannelMajorDecoder, Decoder, DecoderSpec
from mixbench.stepping import CapturedStep, settled_on

_FORMAT = "mixbench.decoder_state/1"
_SECONDS_BETWEEN_STATES = 2.0
_EVALUATION_BATCH = 250

Images = Float[Tensor, "example channel height width"]


@dataclass(frozen=True)
class Budget:
    """What each decoder is given: AdamW without weight decay on the squared error, under a one-cycle schedule.

    Attributes:
        learning_rate: Its highest value.
    """

    epochs: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Moment:
    """How far a probe has come: epoch `done` of `total` over all its decoders."""

    subject: str
    loss: float
    done: int
    total: int


ProgressCallback = Callable[[Moment], None]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained decoder, in eval mode; `losses` has the mean loss of each epoch."""

    decoder: Decoder
    losses: tuple[float, ...]
    seconds: float


def fit_decoder(
    spec: DecoderSpec,
    shuffled: Images,
    truth: Images,
    budget: Budget,
    *,
    seed: int,
    state: Path | None = None,
    key: str = "",
    progress: Callable[[int, float], None] | None = None,
) -> Fitted:
    """Return the decoder that `spec` becomes on `shuffled` and `truth`, on their device, its frozen filters proven.

    A run that was killed goes on from the file `state` if that belongs to the run called `key`. `progress` hears of
    the number and loss of every epoch. Raises MixbenchError if the loss stops being finite.
    """
    device = shuffled.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = spec.build((truth.shape[1], truth.shape[2], truth.shape[3]))
    decoder.to(device)
    run = Fit(decoder, shuffled, truth, budget, seed=seed)
    with settled_on(device):
        run.resume(state, key)
        for number, loss in enumerate(run.losses, start=1):
            if progress is not None:
                progress(number, loss)
        while len(run.losses) < budget.epochs:
            run.epoch()
            run.keep(state, key)
            if progress is not None:
                progress(len(run.losses), run.losses[-1])
    spec.prove_frozen(decoder)
    # Gradients would hold on to the memory of a captured step.
    decoder.zero_grad(set_to_none=True)
    return Fitted(decoder.eval(), tuple(run.losses), run.seconds)


def decode(decoder: nn.Module, shuffled: Images) -> Images:
    """Return what `decoder` makes of the images, in exact float32."""
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return torch.cat([decoder(cut) for cut in shuffled.split(_EVALUATION_BATCH)])


class Fit:
    """One training: network, optimiser, schedule and random order, and how far they have come."""

    def __init__(self, decoder: Decoder, shuffled: Images, truth: Images, budget: Budget, *, seed: int) -> None:
        self.decoder, self.shuffled, self.truth, self.budget = decoder, shuffled, truth, budget
        self.device = truth.device
        cuda = self.device.type == "cuda"
        self.fast: nn.Module = ChannelMajorDecoder(decoder, dtype=torch.bfloat16).to(self.device) if cuda else decoder
        self.batch = min(budget.batch_size, len(truth))
        self.updates = len(truth) // self.batch
        self.generator = torch.Generator(self.device).manual_seed(seed)
        learning = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learning, lr=budget.learning_rate, weight_decay=0.0, fused=cuda)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, budget.learning_rate, total_steps=self.updates * budget.epochs + 1
        )
        self.loss_sum = torch.zeros((), device=self.device)
        self.losses: list[float] = []
        self.seconds = 0.0
        self._saved = time.monotonic()
        self._chosen = torch.arange(self.batch, device=self.device)
        self._captured: CapturedStep | None = None

    def epoch(self) -> None:
        """Make the updates of one epoch; raises MixbenchError if the loss stopped being finite."""
        started = time.perf_counter()
        self.fast.train()
        self.loss_sum.zero_()
        order = torch.randperm(len(self.truth), generator=self.generator, device=self.device)
        for chosen in order[: self.updates * self.batch].split(self.batch):
            self._gradients(chosen)
            self.optimizer.step()
            self.schedule.step()
        loss = float(self.loss_sum) / self.updates
        self.seconds += time.perf_counter() - started
        if not loss < float("inf"):
            raise MixbenchError(
                f"the decoder's loss stopped being finite in epoch {len(self.losses) + 1} at learning rate"
                f" {self.budget.learning_rate:.3g}: try another --seed, or a decoder of smaller --depth or --width"
            )
        self.losses.append(loss)

    def step(self, chosen: Int64[Tensor, " batch"]) -> None:
        """Leave the gradients of the batch `chosen` in the parameters and add its loss to the sum."""
        loss = functional.mse_loss(self.fast(self.shuffled[chosen]), self.truth[chosen])
        for parameter in self.fast.parameters():
            parameter.grad = None
        loss.backward()
        self.loss_sum += loss.detach()

    def _gradients(self, chosen: Int64[Tensor, " batch"]) -> None:
        if self.device.type != "cuda":
            self.step(chosen)
            return
        self._chosen.copy_(chosen)
        if self._captured is None:
            moved = (*self.fast.buffers(), self.loss_sum)
            self._captured = CapturedStep(lambda: self.step(self._chosen), moved=moved)
        self._captured()

    def resume(self, path: Path | None, key: str) -> None:
        """Go on from the state in `path`; where there is none, or it is damaged or another run's, begin anew."""
        if path is None:
            return
        try:
            found = torch.load(io.BytesIO(path.read_bytes()), map_location=self.device, weights_only=True)
            if (found["format"], found["key"]) != (_FORMAT, key):
                return
            losses, seconds, generator = found["losses"], found["seconds"], found["generator"].cpu()
            self.decoder.load_state_dict(found["model"])
            self.optimizer.load_state_dict(found["optimizer"])
        except Exception:  # noqa: BLE001 - torch's unpickler raises whatever it stumbles over; the run can be repeated
            return
        self.losses, self.seconds = list(losses), float(seconds)
        self.generator.set_state(generator)
        self.schedule.load_state_dict(found["schedule"])

    def keep(self, path: Path | None, key: str) -> None:
        """Write the state to `path`, but not so often that writing takes longer than training."""
        finished = len(self.losses) == self.budget.epochs
        if path is None or (not finished and time.monotonic() - self._saved < _SECONDS_BETWEEN_STATES):
            return
        values: dict[str, Any] = {
            "format": _FORMAT,
            "key": key,
            "losses": self.losses,
            "seconds": self.seconds,
            "model": self.decoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {name: value for name, value in self.schedule.state_dict().items() if _is_plain(value)},
            "generator": self.generator.get_state(),
        }
        buffer = io.BytesIO()
        torch.save(values, buffer)
        write_atomically(path, buffer.getvalue())
        self._saved = time.monotonic()


def _is_plain(value: object) -> bool:
    """Return whether `value` is data; the schedule's functions are made anew."""
    return isinstance(value, int | float | bool | str | list)
