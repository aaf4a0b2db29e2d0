"""The training loop: from a spec, a dataset and a recipe to a checkpoint, repeatable from its seeds."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from mixbench.datasets import Examples
from mixbench.errors import InvalidInputError, MixbenchError
from mixbench.models import Checkpoint, CheckpointCard, ModelSpec, count_parameters, logits_fingerprint, weights_bytes
from mixbench.records import Accuracy
from mixbench.training.acceleration import accelerated
from mixbench.training.recipes import AdversarialTraining, Recipe

_EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Epoch:
    """How an epoch went.

    Attributes:
        number: From 1 to `epochs`.
        loss: Mean cross-entropy over the (adversarial) training batches.
        accuracy: On the same batches.
        seconds: Wall time.
    """

    number: int
    epochs: int
    loss: float
    accuracy: Accuracy
    seconds: float


EpochCallback = Callable[[Epoch], None]


def train(
    spec: ModelSpec,
    examples: Examples,
    test: Examples,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    command: str,
    progress: EpochCallback | None = None,
) -> Checkpoint:
    """Return the checkpoint of `spec` trained on `examples`, in eval mode on the CPU.

    `seed` decides the initial values of all that learns, the order of the data and its augmentation; the filter draw
    has its own seed in `spec`. The last epoch is taken: `test` is looked at once, for the card. Raises
    InvalidInputError if the spec does not fit the images, MixbenchError if the loss stops being finite.
    """
    channels, height, width = examples.images.shape[1:]
    _check_fits(spec, examples)
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = spec.build()
    model.to(device)
    with _one_thread(torch.device(device)):
        _fit(model, examples, recipe, seed=seed, device=torch.device(device), progress=progress)
    model.to("cpu").eval()
    parameters = count_parameters(model)
    card = CheckpointCard(
        sha256=weights_bytes(model)[1],
        logits=logits_fingerprint(model, (channels, height, width)),
        mixing=spec.architecture.mixing.value,
        filter_scheme=str(spec.scheme),
        filter_seed=spec.filter_seed,
        seed=seed,
        recipe=recipe.name,
        dataset=examples.name,
        dataset_fingerprint=examples.fingerprint,
        image_size=(channels, height, width),
        clean=clean_accuracy(model, test),
        parameters=parameters,
        epochs=recipe.epochs,
        seconds=round(time.perf_counter() - started, 1),
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        command=command,
    )
    return Checkpoint(spec=spec, model=model, card=card)


@contextmanager
def _one_thread(device: torch.device) -> Generator[None]:
    """Train on one CPU thread: sums split over threads round differently on machines with other core counts."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def clean_accuracy(model: nn.Module, examples: Examples) -> Accuracy:
    """Return the accuracy of `model`, in eval mode, on `examples` without attack."""
    images, labels = _tensors(examples)
    with torch.no_grad():
        predictions = torch.cat([model(cut).argmax(1) for cut in images.split(_EVALUATION_BATCH)])
    return Accuracy(correct=int((predictions == labels).sum()), total=len(labels))


def _check_fits(spec: ModelSpec, examples: Examples) -> None:
    channels = examples.images.shape[1]
    if spec.args["in_chans"] != channels or spec.args["num_classes"] != examples.num_classes:
        raise InvalidInputError(
            f"{spec.architecture.name} is built for {spec.args['in_chans']} channels and {spec.args['num_classes']}"
            f" classes, {examples.name} has {channels} and {examples.num_classes}: choose a dataset that fits"
        )


def _fit(
    model: nn.Module,
    examples: Examples,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    progress: EpochCallback | None,
) -> None:
    images, labels = (tensor.to(device) for tensor in _tensors(examples))
    generator = torch.Generator(device).manual_seed(seed)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=device.type == "cuda",
    )
    fast = accelerated(model, examples.images.shape[1:], device)
    steps = -(-len(images) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, epochs=recipe.epochs, steps_per_epoch=steps
    )
    for number in range(1, recipe.epochs + 1):
        started = time.perf_counter()
        # Sums stay on the device: reading them every step would make the host wait.
        loss_sum, correct = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        for clean, targets in _batches(images, labels, recipe, generator):
            batch = clean
            if recipe.adversarial is not None:
                batch = adversarial_batch(fast, clean, targets, recipe.adversarial, generator)
            logits = fast.train()(batch)
            loss = functional.cross_entropy(logits, targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += loss.detach() * len(batch)
            correct += (logits.detach().argmax(1) == targets).sum()
        accuracy = Accuracy(correct=int(correct), total=len(images))
        epoch = Epoch(number, recipe.epochs, float(loss_sum) / len(images), accuracy, time.perf_counter() - started)
        _check_finite(epoch, float(schedule.get_last_lr()[0]))
        if progress is not None:
            progress(epoch)


def _batches(
    images: Float[Tensor, "example channel height width"],
    labels: Int64[Tensor, " example"],
    recipe: Recipe,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(images), generator=generator, device=images.device)
    for chosen in order.split(recipe.batch_size):
        if len(chosen) == 1:
            continue  # BatchNorm has no variance of a single example
        batch = _shifted(images[chosen], recipe.max_shift, generator)
        yield (_flipped(batch, generator) if recipe.flip else batch), labels[chosen]


def _flipped(
    images: Float[Tensor, "batch channel height width"], generator: torch.Generator
) -> Float[Tensor, "batch channel height width"]:
    """Return the images, each mirrored left to right with probability one half."""
    mirrored = torch.rand(len(images), generator=generator, device=images.device) < 0.5  # noqa: PLR2004 - one half
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def _shifted(
    images: Float[Tensor, "batch channel height width"], reach: int, generator: torch.Generator
) -> Float[Tensor, "batch channel height width"]:
    """Return each image shifted by up to `reach` pixels, filled with 0."""
    if reach == 0:
        return images
    n, _, height, width = images.shape
    shifts = torch.randint(0, 2 * reach + 1, (2, n), generator=generator, device=images.device)
    rows = shifts[0, :, None] + torch.arange(height, device=images.device)
    columns = shifts[1, :, None] + torch.arange(width, device=images.device)
    padded = functional.pad(images, (reach, reach, reach, reach))
    example = torch.arange(n, device=images.device)[:, None, None]
    return padded[example, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def adversarial_batch(
    model: nn.Module,
    images: Float[Tensor, "batch channel height width"],
    labels: Int64[Tensor, " batch"],
    training: AdversarialTraining,
    generator: torch.Generator,
) -> Float[Tensor, "batch channel height width"]:
    """Return the images moved by PGD within the training threat model, the model being in eval mode meanwhile."""
    eps = float(training.threat_model.eps)
    was_training = model.training
    model.eval()
    noise = torch.rand(images.shape, generator=generator, device=images.device)
    adversarial = (images + eps * (2 * noise - 1)).clamp(0, 1)
    for _ in range(training.steps):
        adversarial.requires_grad_()
        loss = functional.cross_entropy(model(adversarial), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, [adversarial])
        step = adversarial.detach() + training.relative_step_size * eps * gradient.sign()
        adversarial = torch.minimum(torch.maximum(step, images - eps), images + eps).clamp(0, 1)
    model.train(was_training)
    return adversarial


def _check_finite(epoch: Epoch, learning_rate: float) -> None:
    if not epoch.loss < float("inf"):
        raise MixbenchError(
            f"the training loss was {epoch.loss} in epoch {epoch.number} at learning rate {learning_rate:.3g}: lower"
            " the recipe's learning rate"
        )


def _tensors(examples: Examples) -> tuple[Float[Tensor, "example channel height width"], Int64[Tensor, " example"]]:
    images = torch.from_numpy(examples.images.copy()).float() / 255
    return images, torch.from_numpy(examples.labels.copy())


def with_epochs(recipe: Recipe, epochs: int | None) -> Recipe:
    """Return `recipe` with another number of epochs, or as it is for None."""
    if epochs is None:
        return recipe
    if epochs < 1:
        raise InvalidInputError(f"epochs {epochs} is not at least 1: leave it out for the recipe's {recipe.epochs}")
    return replace(recipe, epochs=epochs)
