"""The training loop: from a spec, a dataset and a recipe to a checkpoint, repeatable from its seeds."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixbench.datasets import Examples, balanced_order
from mixbench.errors import InvalidInputError, MixbenchError
from mixbench.models import Checkpoint, CheckpointCard, ModelSpec, count_parameters, logits_fingerprint, weights_bytes
from mixbench.records import Accuracy
from mixbench.stepping import settled_on
from mixbench.training.acceleration import accelerated
from mixbench.training.augmentation import Draws, draw
from mixbench.training.guard import OverfittingGuard
from mixbench.training.log import Epoch
from mixbench.training.recipes import AdversarialTraining, Recipe
from mixbench.training.schedule import Rate, rate
from mixbench.training.state import TrainingFolder, TrainingState
from mixbench.training.step import GraphedStep, Run, Step

_EVALUATION_BATCH = 500
_VALIDATION_SEED = 0
_SECONDS_BETWEEN_STATES = 2.0

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
    workspace: Path | None = None,
    progress: EpochCallback | None = None,
) -> Checkpoint:
    """Return the checkpoint of `spec` trained on `examples`, in eval mode on the CPU.

    `seed` decides the initial values of all that learns, the order of the data and its augmentation; the filter draw
    has its own seed in `spec`. The last epoch is taken: `test` is looked at once, for the card. With a `workspace`, a
    run that was killed goes on after its last whole epoch: on the CPU it ends with the same bits. `progress` hears of
    every epoch, also of those that an earlier process finished.

    Raises InvalidInputError if the spec does not fit the images; MixbenchError, the state of the last good epoch being
    kept, if the loss stops being finite or robustness collapses.
    """
    _check_fits(spec, examples)
    channels, height, width = examples.images.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = spec.build()
    model.to(device)
    folder = None if workspace is None else TrainingFolder(workspace, run_key(spec, examples, recipe, seed, device))
    parts = held_out(examples, recipe)
    fit = Fit(model, *parts, recipe, seed=seed, device=torch.device(device), folder=folder)
    fit.run(progress)
    clean = clean_accuracy(model, test, device=device)
    validation = None if parts[1] is None else clean_accuracy(model, parts[1], device=device)
    model.to("cpu").eval()
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
        clean=clean,
        validation=validation,
        parameters=count_parameters(model),
        epochs=recipe.epochs,
        seconds=round(sum(epoch.seconds for epoch in fit.epochs), 1),
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        command=command,
    )
    return Checkpoint(spec=spec, model=model, card=card)


def run_key(spec: ModelSpec, examples: Examples, recipe: Recipe, seed: int, device: str) -> str:
    """Return a hash of all that decides what a training run computes."""
    kind = torch.device(device).type
    text = f"{spec.architecture.name} {spec.model_args} {examples.fingerprint} {recipe} {seed} {kind}"
    return hashlib.sha256(text.encode()).hexdigest()


def held_out(examples: Examples, recipe: Recipe) -> tuple[Examples, Examples | None]:
    """Return the examples to train on, and those held out for validation, None where the recipe holds out none.

    The choice is balanced and the same for every model and seed, so that no tuning ever sees it trained on.
    """
    n = recipe.validation
    if n == 0:
        return examples, None
    if n > len(examples) // 2:
        raise InvalidInputError(
            f"the recipe {recipe.name} holds out {n} of {len(examples)} examples of {examples.name}: train on more"
            " examples, or hold out at most half"
        )
    order = balanced_order(examples.labels, seed=_VALIDATION_SEED)
    kept, chosen = np.sort(order[n:]), np.sort(order[:n])
    return examples.take(kept, subset=f"without-{n}"), examples.take(chosen, subset=f"validation-{n}")


def clean_accuracy(model: nn.Module, examples: Examples, *, device: str = "cpu") -> Accuracy:
    """Return the accuracy of `model`, which is on `device`, on `examples`, in eval mode and exact float32."""
    images, labels = (tensor.to(device) for tensor in _tensors(examples))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return _accuracy(model, images, labels)


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> Accuracy:
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=labels.device)
    with torch.no_grad():
        for cut, own in zip(images.split(_EVALUATION_BATCH), labels.split(_EVALUATION_BATCH), strict=True):
            correct += (model(cut).argmax(1) == own).sum()
    model.train(was_training)
    return Accuracy(correct=int(correct), total=len(labels))


def _check_fits(spec: ModelSpec, examples: Examples) -> None:
    channels = examples.images.shape[1]
    if spec.args["in_chans"] != channels or spec.args["num_classes"] != examples.num_classes:
        raise InvalidInputError(
            f"{spec.architecture.name} is built for {spec.args['in_chans']} channels and {spec.args['num_classes']}"
            f" classes, {examples.name} has {channels} and {examples.num_classes}: choose a dataset that fits"
        )


class Fit:
    """One run: the network, its optimiser and random stream, and how far they have come."""

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        validation: Examples | None,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        folder: TrainingFolder | None = None,
    ) -> None:
        self.model, self.recipe, self.device = model, recipe, device
        self.folder = folder
        self.validation = None if validation is None else tuple(tensor.to(device) for tensor in _tensors(validation))
        self.images, self.labels = (tensor.to(device) for tensor in _tensors(examples))
        self.generator = torch.Generator(device).manual_seed(seed)
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=device.type == "cuda",
        )
        channels, height, width = examples.images.shape[1:]
        self.fast = accelerated(model, (channels, height, width), device)
        self.step = Step(self.fast, self.images, self.labels, recipe)
        self.updates = len(batch_sizes(len(self.images), recipe))
        self.guard = OverfittingGuard(self.fast, self.images, self.labels, recipe, seed=seed)
        self.epochs: list[Epoch] = []
        self._saved = time.monotonic()

    def run(self, progress: EpochCallback | None) -> None:
        """Train to the end."""
        with settled_on(self.device):
            self._run(progress)

    def _run(self, progress: EpochCallback | None) -> None:
        state = None if self.folder is None else self.folder.load(device=self.device)
        if state is not None:
            state.restore(self.model, self.optimizer, self.generator)
            self.epochs.extend(state.epochs)
        if progress is not None:
            for epoch in self.epochs:
                progress(epoch)
        while len(self.epochs) < self.recipe.epochs:
            epoch = self._epoch(len(self.epochs) + 1)
            self.guard.check([*self.epochs, epoch], kept=self._kept())
            self.epochs.append(epoch)
            self._save()
            if progress is not None:
                progress(epoch)

    def _epoch(self, number: int) -> Epoch:
        started = time.perf_counter()
        self._updates((number - 1) * self.updates)
        loss = float(self.step.loss_sum) / self._seen
        self._check_finite(number)
        robust = self.guard.measure()
        validation = None if self.validation is None else _accuracy(self.fast, *self.validation)
        accuracy = Accuracy(correct=int(self.step.correct), total=self._seen)
        learning_rate = self._rate(number * self.updates - 1).learning_rate
        seconds = time.perf_counter() - started
        return Epoch(number, self.recipe.epochs, loss, accuracy, validation, robust, learning_rate, seconds)

    def _rate(self, update: int) -> Rate:
        return rate(self.recipe, update, updates=self.updates * self.recipe.epochs)

    @property
    def _seen(self) -> int:
        return sum(batch_sizes(len(self.images), self.recipe))

    def _updates(self, done: int) -> None:
        """Make all updates of an epoch, `done` of which came before."""
        self.step.begin_epoch()
        for update, (chosen, draws) in enumerate(batches(self.images, self.recipe, self.generator), start=done):
            settings = self._rate(update)
            for group in self.optimizer.param_groups:
                group["lr"], group["betas"] = settings.learning_rate, settings.betas
            if self.recipe.adversarial is not None:
                self._warm_up(self.recipe.adversarial, update)
            self._run_for(chosen, draws)(chosen, draws)
            self.optimizer.step()

    def _warm_up(self, training: AdversarialTraining, update: int) -> None:
        """Set eps for `update`: it rises linearly over the warm-up."""
        share = min(1.0, (update + 1) / max(1, training.warmup_epochs * self.updates))
        eps = share * float(training.threat_model.eps)
        self.step.set_eps(eps, step_size=training.relative_step_size * eps)

    def _run_for(self, chosen: Tensor, draws: Draws) -> Run:
        """Return what computes this batch: on CUDA a graph, captured at the first whole batch."""
        if self.device.type != "cuda" or len(chosen) != self.recipe.batch_size:
            return self.step
        if self._graph is None:
            self._graph = GraphedStep(self.step, self.fast, chosen, draws)
        return self._graph

    _graph: GraphedStep | None = None

    def _check_finite(self, number: int) -> None:
        bad = int(self.step.first_bad)
        if bad < 0:
            return
        update = (number - 1) * self.updates + bad
        raise MixbenchError(
            f"the training loss stopped being finite in update {update + 1} (epoch {number}) at learning rate"
            f" {self._rate(update).learning_rate:.3g}: lower the recipe's learning rate{self._kept()}"
        )

    def _kept(self) -> str:
        if self.folder is None or not self.folder.path.is_file():
            return ""
        return f"; the last good state is kept in {self.folder.path}"

    def _save(self) -> None:
        """Keep the state, but not so often that writing takes longer than training."""
        finished = len(self.epochs) == self.recipe.epochs
        if self.folder is None or (not finished and time.monotonic() - self._saved < _SECONDS_BETWEEN_STATES):
            return
        self.folder.save(TrainingState.of(tuple(self.epochs), self.model, self.optimizer, self.generator))
        self._saved = time.monotonic()


def batch_sizes(n: int, recipe: Recipe) -> list[int]:
    """Return how many of `n` examples each update of an epoch sees."""
    whole, rest = divmod(n, recipe.batch_size)
    # BatchNorm has no variance of a single example.
    keep_rest = rest > 1 and not (recipe.drop_last and whole > 0)
    return [recipe.batch_size] * whole + ([rest] if keep_rest else [])


def batches(
    images: Float[Tensor, "example channel height width"], recipe: Recipe, generator: torch.Generator
) -> Iterator[tuple[Int64[Tensor, " batch"], Draws]]:
    """Yield the positions of each batch of an epoch, in a new order, and the random choices for it."""
    order = torch.randperm(len(images), generator=generator, device=images.device)
    _, channels, height, width = images.shape
    start = 0
    for size in batch_sizes(len(images), recipe):
        yield order[start : start + size], draw(recipe, (size, channels, height, width), generator)
        start += size


def _tensors(examples: Examples) -> tuple[Float[Tensor, "example channel height width"], Int64[Tensor, " example"]]:
    images = torch.from_numpy(examples.images.copy()).float() / 255
    return images, torch.from_numpy(examples.labels.copy())
