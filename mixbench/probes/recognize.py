"""The recognition probe: how far does a checkpoint's accuracy survive when pixels are permuted?"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from mixbench.datasets import Examples
from mixbench.errors import InvalidInputError
from mixbench.mixers import Role, classifier_of, find
from mixbench.models import LoadedModel
from mixbench.probe_record import (
    Estimate,
    Measurement,
    Point,
    ProbeIdentity,
    ProbeProtocol,
    ProbeRecord,
    probe_hash,
    probe_id,
)
from mixbench.probes.decoder import Images
from mixbench.probes.fitting import Moment, ProgressCallback
from mixbench.probes.metrics import as_tensor, estimate
from mixbench.probes.permutation import PixelPermutation
from mixbench.probes.sizes import check_square
from mixbench.probes.unshuffle import ProbeResult
from mixbench.records import Cost, DatasetIdentity, Provenance
from mixbench.stepping import forget_peak_memory, peak_memory_bytes

FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)

_BATCH = 250
_RIDGE = 1.0

Verdicts = Bool[np.ndarray, " example"]


@dataclass(frozen=True, eq=False)
class RecognizePlan:
    """What is going to be probed, checked and ready to be hashed.

    Attributes:
        train: Examples that a readout learns from; None to measure the checkpoint's own classifier alone.
        permutation_seeds: Ascending.
    """

    model: LoadedModel
    test: Examples
    train: Examples | None
    permutation_seeds: tuple[int, ...]
    seed: int

    @property
    def tiles(self) -> tuple[int, ...]:
        """Sides of the tiles that pixels are permuted within: powers of two, then the whole image."""
        side = self.test.images.shape[2]
        return (*(2**k for k in range(1, math.ceil(math.log2(side)))), side)

    @property
    def dataset(self) -> DatasetIdentity:
        """The test examples."""
        test = self.test
        return DatasetIdentity(
            name=test.name, split=test.split, subset=test.subset, fingerprint=test.fingerprint, n=len(test)
        )

    @property
    def identity(self) -> ProbeIdentity:
        """The probe with all its settings."""
        parameters = {
            "tiles": ",".join(map(str, self.tiles)),
            "fractions": ",".join(map(str, FRACTIONS)),
            "retrain": "no" if self.train is None else f"ridge({_RIDGE}) on {self.train.fingerprint}",
        }
        return ProbeIdentity(name="recognize", parameters=parameters)

    @property
    def protocol(self) -> ProbeProtocol:
        """What decides whether two records may be compared."""
        seeds = self.permutation_seeds
        digest = probe_hash(dataset=self.dataset, probe=self.identity, seed=self.seed, permutation_seeds=seeds)
        return ProbeProtocol(seed=self.seed, permutation_seeds=seeds, hash=digest)

    @property
    def record_id(self) -> str:
        """The folder name that the record will have."""
        identity = self.model.identity
        name = identity.name
        return probe_id(name, identity.filter_seed, self.dataset, self.identity, self.protocol, sha256=identity.sha256)


def plan_recognize(
    model: LoadedModel,
    test: Examples,
    *,
    train: Examples | None = None,
    permutation_seeds: tuple[int, ...],
    seed: int,
) -> RecognizePlan:
    """Return the plan; raises InvalidInputError if the images do not fit, or if the model mixes no space."""
    channels, height, width = test.images.shape[1:]
    seeds = tuple(sorted(set(permutation_seeds)))
    check_recognize(
        model,
        dataset=test.name,
        image_size=(channels, height, width),
        permutation_seeds=seeds,
        retrain=train is not None,
    )
    return RecognizePlan(model, test, train, seeds, seed)


def check_recognize(
    model: LoadedModel,
    *,
    dataset: str,
    image_size: tuple[int, int, int],
    permutation_seeds: tuple[int, ...],
    retrain: bool,
) -> None:
    """Raise what `plan_recognize` raises; needs no data."""
    name = model.identity.name
    channels, height, width = image_size
    check_square(dataset, height, width)
    if model.image_size is not None and model.image_size != image_size:
        raise InvalidInputError(
            f"{name} takes images of {'x'.join(map(str, model.image_size))}, {dataset} has"
            f" {channels}x{height}x{width}: choose a dataset or a checkpoint of the same size"
        )
    if not any(mixer.role in (Role.SPATIAL, Role.FULL) for mixer in find(model.module)):
        raise InvalidInputError(
            f"{name} has no spatial mixers (convolutions with windows, or layers over tokens), so there is no"
            " dependence on neighbours to probe: name a model that has, such as convmixer_frozen"
        )
    if retrain and not classifier_of(model.module):
        raise InvalidInputError(f"{name} has no classifier whose features could be read: leave out --retrain")
    for chosen in permutation_seeds:
        # Drawing refuses what moves nothing.
        PixelPermutation.within_tiles(height, width, tile=2, seed=chosen)
        for fraction in FRACTIONS:
            PixelPermutation.of_fraction(height, width, fraction=fraction, seed=chosen)


def probe_recognize(plan: RecognizePlan, *, device: str, progress: ProgressCallback | None = None) -> ProbeResult:
    """Return the record of accuracies under shuffles that grow by tile and by fraction of pixels, and their areas."""
    target = torch.device(device)
    module = plan.model.module.to(target).eval()
    try:
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return _Recognize(plan, module, target, progress).run()
    finally:
        module.to("cpu")


class _Recognize:
    """One probe: its images, and how many passes they took."""

    def __init__(
        self, plan: RecognizePlan, module: nn.Module, device: torch.device, progress: ProgressCallback | None
    ) -> None:
        self.plan, self.module, self.device, self.progress = plan, module, device, progress
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self.provenance = Provenance.collect(device=name)
        forget_peak_memory(device)
        self.images, self.labels = as_tensor(plan.test.images, device), np.array(plan.test.labels)
        self.train = None if plan.train is None else as_tensor(plan.train.images, device)
        self.forwards, self.done = 0, 0
        self.subjects = ("model",) if self.train is None else ("model", "readout")

    def run(self) -> ProbeResult:
        """Measure every permutation."""
        started = time.perf_counter()
        plan = self.plan
        self.total = len(plan.permutation_seeds) * (len(plan.tiles) + len(FRACTIONS)) + 1
        unmoved = self._verdicts(lambda images: images, "no permutation")
        measurements = [measurement for seed in plan.permutation_seeds for measurement in self._under(seed, unmoved)]
        record = ProbeRecord(
            model=plan.model.identity,
            dataset=plan.dataset,
            probe=plan.identity,
            protocol=plan.protocol,
            measurements=tuple(sorted(measurements, key=lambda one: self.subjects.index(one.subject))),
            warnings=(),
            cost=Cost(
                forwards=self.forwards,
                backwards=0,
                seconds=time.perf_counter() - started,
                seconds_by_stage={},
                peak_memory_bytes=peak_memory_bytes(self.device),
            ),
            samples_sha256=None,
            examples_sha256=None,
            provenance=self.provenance,
        )
        return ProbeResult(record, samples=None, examples=None)

    def _under(self, seed: int, unmoved: dict[str, Verdicts]) -> Iterator[Measurement]:
        """Yield a measurement for each subject under the permutations of `seed`."""
        height, width = self.images.shape[2:]
        tiles, fractions = self.plan.tiles, FRACTIONS
        by_tile = [unmoved] + [
            self._verdicts(PixelPermutation.within_tiles(height, width, tile=tile, seed=seed).shuffled, f"tile {tile}")
            for tile in tiles
        ]
        by_fraction = [unmoved] + [
            self._verdicts(
                PixelPermutation.of_fraction(height, width, fraction=fraction, seed=seed).shuffled, f"{fraction:.0%}"
            )
            for fraction in fractions
        ]
        for subject in self.subjects:
            tile_rows = [verdicts[subject] for verdicts in by_tile]
            fraction_rows = [verdicts[subject] for verdicts in by_fraction]
            yield Measurement(
                subject=subject,
                permutation_seed=seed,
                metrics={
                    "accuracy": estimate(tile_rows[0].astype(np.float64)),
                    "accuracy_global": estimate(tile_rows[-1].astype(np.float64)),
                    "area_by_tile": area(np.log2([1, *tiles]), tile_rows),
                    "area_by_fraction": area(np.array([0.0, *fractions]), fraction_rows),
                },
                curves={
                    "accuracy_by_tile": _curve([1, *tiles], tile_rows),
                    "accuracy_by_fraction": _curve([0.0, *fractions], fraction_rows),
                },
            )

    def _verdicts(self, moved: Callable[[Images], Images], text: str) -> dict[str, Verdicts]:
        """Return which test examples each subject has right after `moved`."""
        logits, features = self._outputs(moved(self.images))
        verdicts = {"model": logits.argmax(axis=1) == self.labels}
        if self.train is not None and self.plan.train is not None:
            readout = make_pipeline(StandardScaler(), RidgeClassifier(alpha=_RIDGE))
            readout.fit(self._outputs(moved(self.train))[1], self.plan.train.labels)
            verdicts["readout"] = np.asarray(readout.predict(features)) == self.labels
        self.done += 1
        if self.progress is not None:
            self.progress(Moment(text, 1 - float(verdicts["model"].mean()), self.done, self.total))
        return verdicts

    def _outputs(self, images: Images) -> tuple[Float[np.ndarray, "example logit"], Float[np.ndarray, "example value"]]:
        """Return logits, and what the classifier reads, for which it is empty without one."""
        heard: list[np.ndarray] = []

        def hear(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            del module
            heard.append(inputs[0].flatten(1).double().cpu().numpy())

        handles = [head.register_forward_pre_hook(hear) for head in classifier_of(self.module)[:1]]
        try:
            logits = [self.module(cut).double().cpu().numpy() for cut in images.split(_BATCH)]
        finally:
            for handle in handles:
                handle.remove()
        self.forwards += len(images)
        return np.concatenate(logits), np.concatenate(heard) if heard else np.empty((len(images), 0))


def area(places: Float[np.ndarray, " strength"], verdicts: Sequence[Verdicts]) -> Estimate:
    """Return the mean accuracy over `places` by the trapezoidal rule, in [0, 1], with its interval over examples."""
    widths = np.diff(places)
    weights = (np.append(widths, 0.0) + np.insert(widths, 0, 0.0)) / (2 * (places[-1] - places[0]))
    return estimate(weights @ np.stack(verdicts).astype(np.float64))


def _curve(places: Sequence[float], verdicts: Sequence[Verdicts]) -> tuple[Point, ...]:
    return tuple(
        Point(x=float(place), n=len(right), y=estimate(right.astype(np.float64)))
        for place, right in zip(places, verdicts, strict=True)
    )
