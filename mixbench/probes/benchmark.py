"""What an epoch of decoder training costs, beside the network as timm computes it."""

import time
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from mixbench.probes.decoder import Decoder
from mixbench.probes.fitting import Fit
from mixbench.probes.metrics import as_tensor
from mixbench.probes.permutation import PixelPermutation
from mixbench.probes.unshuffle import UnshufflePlan
from mixbench.stepping import peak_memory_bytes, settled_on


@dataclass(frozen=True)
class DecoderTime:
    """How long one way of training takes.

    Attributes:
        way: Such as "mixbench" or "eager float32".
        seconds: Of one epoch, after warming up.
        loss: Mean loss of that epoch.
        peak_memory_bytes: Highest memory in use so far.
    """

    way: str
    seconds: float
    loss: float
    peak_memory_bytes: int


def time_decoders(plan: UnshufflePlan, *, device: str) -> tuple[DecoderTime, ...]:
    """Return the time of the second epoch: mixbench's, and that of the eager network in float32."""
    target = torch.device(device)
    with settled_on(target):
        return _time_mixbench(plan, target), _time_eager(plan, target)


def _time_mixbench(plan: UnshufflePlan, device: torch.device) -> DecoderTime:
    fit = _fit(plan, device)
    fit.epoch()
    first = fit.seconds
    fit.epoch()
    return DecoderTime("mixbench", fit.seconds - first, fit.losses[-1], peak_memory_bytes(device))


def _fit(plan: UnshufflePlan, device: torch.device) -> Fit:
    truth = as_tensor(plan.train.images, device)
    permutation = PixelPermutation.everywhere(truth.shape[2], truth.shape[3], seed=plan.permutation_seeds[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        decoder: Decoder = plan.spec.build((truth.shape[1], truth.shape[2], truth.shape[3]))
    budget = replace(plan.budget, epochs=2)
    return Fit(decoder.to(device), permutation.shuffled(truth), truth, budget, seed=plan.seed)


def _time_eager(plan: UnshufflePlan, device: torch.device) -> DecoderTime:
    fit = _fit(plan, device)
    decoder, seconds, loss = fit.decoder.train(), 0.0, 0.0
    for _ in range(2):
        started, losses = time.perf_counter(), torch.zeros((), device=device)
        for chosen in torch.randperm(len(fit.truth), generator=fit.generator, device=device)[
            : fit.updates * fit.batch
        ].split(fit.batch):
            error = functional.mse_loss(decoder(fit.shuffled[chosen]), fit.truth[chosen])
            fit.optimizer.zero_grad()
            error.backward()
            fit.optimizer.step()
            fit.schedule.step()
            losses += error.detach()
        loss = float(losses) / fit.updates
        seconds = time.perf_counter() - started
    return DecoderTime("eager float32", seconds, loss, peak_memory_bytes(device))
