"""What an epoch of training costs, beside the usual loop: a DataLoader with workers and an eager network."""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional as pictures

from mixbench.datasets import Examples
from mixbench.models import ModelSpec
from mixbench.threat_model import Norm
from mixbench.training.adversary import adversarial_batch
from mixbench.training.loop import Fit, held_out
from mixbench.training.recipes import Recipe

_WARM_UP_BATCHES = 5
_MOST_WORKERS = 16


@dataclass(frozen=True)
class EpochTime:
    """How long one way of training takes.

    Attributes:
        way: Such as "mixbench" or "DataLoader, float32".
        seconds: Of one epoch, after warming up.
        first_seconds: Of the epoch that warms up; None where only some batches did.
        loss: Mean training loss of the timed epoch.
        peak_memory_bytes: Highest memory in use on the GPU; 0 on the CPU.
    """

    way: str
    seconds: float
    first_seconds: float | None
    loss: float
    peak_memory_bytes: int


def time_training(
    spec: ModelSpec, examples: Examples, recipe: Recipe, *, seed: int, device: str, epochs: int = 3
) -> tuple[EpochTime, ...]:
    """Return the times of an epoch: mixbench's after its first, then the usual loop in float32 and, on CUDA, in AMP."""
    own = _with_memory(lambda: _time_mixbench(spec, examples, recipe, seed=seed, device=device, epochs=epochs), device)
    precisions = (False, True) if device.startswith("cuda") else (False,)
    usual = partial(_time_usual, spec, examples, recipe, seed=seed, device=device)
    return own, *(_with_memory(partial(usual, amp=amp), device) for amp in precisions)


def _with_memory(way: Callable[[], EpochTime], device: str) -> EpochTime:
    if not device.startswith("cuda"):
        return way()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    result = way()
    return replace(result, peak_memory_bytes=torch.cuda.max_memory_allocated(device))


def _built(spec: ModelSpec, seed: int, device: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return spec.build().to(device)


def _time_mixbench(
    spec: ModelSpec, examples: Examples, recipe: Recipe, *, seed: int, device: str, epochs: int
) -> EpochTime:
    longer = replace(recipe, epochs=max(2, epochs))
    fit = Fit(_built(spec, seed, device), *held_out(examples, longer), longer, seed=seed, device=torch.device(device))
    fit.run(None)
    later = sorted(fit.epochs[1:], key=lambda epoch: epoch.seconds)
    middle = later[len(later) // 2]
    return EpochTime("mixbench", middle.seconds, fit.epochs[0].seconds, middle.loss, 0)


class _Pictures(Dataset[tuple[Tensor, int]]):
    """Examples as the usual loop reads them: one picture at a time, transformed by torchvision."""

    def __init__(self, examples: Examples, recipe: Recipe) -> None:
        self._images = np.ascontiguousarray(examples.images.transpose(0, 2, 3, 1))
        self._labels = examples.labels.tolist()
        steps: list[Callable[..., object]] = []
        if recipe.max_shift:
            steps.append(transforms.RandomCrop(examples.images.shape[2], padding=recipe.max_shift))
        if recipe.flip:
            steps.append(transforms.RandomHorizontalFlip())
        if recipe.rand_augment is not None:
            chosen = recipe.rand_augment
            steps.append(transforms.RandAugment(chosen.operations, chosen.magnitude))
        after = [transforms.RandomErasing(recipe.erasing)] if recipe.erasing else []
        self._transform = transforms.Compose([*steps, transforms.ToTensor(), *after])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(pictures.to_pil_image(self._images[index])), self._labels[index]


def _time_usual(spec: ModelSpec, examples: Examples, recipe: Recipe, *, seed: int, device: str, amp: bool) -> EpochTime:
    """Return the time of an epoch as most scripts train: workers, torchvision transforms, timm's network as it is."""
    kind = torch.device(device).type
    workers = min(_MOST_WORKERS, os.cpu_count() or 1) if kind == "cuda" else 0
    training, _ = held_out(examples, recipe)
    loader = DataLoader(
        _Pictures(training, recipe),
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=recipe.drop_last,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=kind == "cuda",
        generator=torch.Generator().manual_seed(seed),
    )
    model = _built(spec, seed, device)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=recipe.learning_rate / 20, weight_decay=recipe.weight_decay)

    def update(images: Tensor, labels: Tensor) -> float:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with torch.autocast(kind, torch.bfloat16, enabled=amp):
            batch = _attacked(model, images, labels, recipe)
            loss = functional.cross_entropy(model.train()(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    for images, labels in itertools.islice(loader, _WARM_UP_BATCHES):
        update(images, labels)
    started = time.perf_counter()
    losses = [update(images, labels) for images, labels in loader]
    seconds = time.perf_counter() - started
    return EpochTime(f"DataLoader, {'AMP' if amp else 'float32'}", seconds, None, float(np.mean(losses)), 0)


def _attacked(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    training = recipe.adversarial
    if training is None:
        return images
    eps = float(training.threat_model.eps)
    norm = training.threat_model.norm
    start = torch.rand_like(images) if norm is Norm.LINF else torch.randn_like(images)
    return adversarial_batch(
        model,
        images,
        labels,
        start,
        norm=norm,
        eps=eps,
        step_size=training.relative_step_size * eps,
        steps=training.steps,
    )
