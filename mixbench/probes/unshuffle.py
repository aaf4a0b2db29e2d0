"""The un-shuffle probe: can a decoder of a mixing scheme give back images whose pixels were permuted?"""

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mixbench.datasets import Examples
from mixbench.errors import InvalidInputError
from mixbench.mixers import Mixing
from mixbench.models import count_parameters
from mixbench.probe_examples import encode_probe_examples
from mixbench.probe_record import Measurement, ProbeIdentity, ProbeProtocol, ProbeRecord, probe_hash, probe_id
from mixbench.probes.controls import DenseLayer, uniform_noise
from mixbench.probes.decoder import Decoder, DecoderSpec, Images
from mixbench.probes.fitting import Budget, Fitted, Moment, ProgressCallback, decode, fit_decoder
from mixbench.probes.metrics import as_tensor, error_by_displacement, image_metrics, image_values, metrics_of
from mixbench.probes.permutation import PixelPermutation
from mixbench.probes.sizes import DecoderChoice
from mixbench.records import Cost, DatasetIdentity, ModelIdentity, Provenance
from mixbench.stepping import forget_peak_memory, peak_memory_bytes

FEWEST_PERMUTATIONS = 3
_MOST_NOISE = 2000
_SAMPLES = 10


@dataclass(frozen=True, eq=False)
class UnshufflePlan:
    """What is going to be probed, checked and ready to be hashed.

    Attributes:
        spec: The decoder.
        budget: What it and the circular controls are trained with.
        train: Examples that decoders learn from.
        test: Examples that they are measured on.
        permutation_seeds: Ascending; the controls with circular padding have the first one alone.
        seed: Of initial values, order and noise.
    """

    spec: DecoderSpec
    budget: Budget
    train: Examples
    test: Examples
    permutation_seeds: tuple[int, ...]
    seed: int

    @property
    def model_name(self) -> str:
        """Name of the architecture."""
        return f"convmixer_{self.spec.mixing.value}"

    @property
    def filter_seed(self) -> int | None:
        """The seed of what is frozen; None when nothing is."""
        return None if self.spec.mixing is Mixing.TRAINED else self.spec.filter_seed

    @property
    def dataset(self) -> DatasetIdentity:
        """The test examples."""
        test = self.test
        return DatasetIdentity(
            name=test.name, split=test.split, subset=test.subset, fingerprint=test.fingerprint, n=len(test)
        )

    @property
    def identity(self) -> ProbeIdentity:
        """The probe with all its settings but the mixing, which is what is compared."""
        spec = self.spec
        settings: dict[str, object] = {
            "depth": spec.depth,
            "width": spec.width,
            "kernel": spec.kernel,
            **asdict(self.budget),
            "train_subset": self.train.subset,
            "train_fingerprint": self.train.fingerprint,
        }
        return ProbeIdentity(name="unshuffle", parameters={name: str(value) for name, value in settings.items()})

    @property
    def protocol(self) -> ProbeProtocol:
        """What decides whether two records may be compared."""
        seeds = self.permutation_seeds
        digest = probe_hash(dataset=self.dataset, probe=self.identity, seed=self.seed, permutation_seeds=seeds)
        return ProbeProtocol(seed=self.seed, permutation_seeds=seeds, hash=digest)

    @property
    def record_id(self) -> str:
        """The folder name that the record will have."""
        return probe_id(self.model_name, self.filter_seed, self.dataset, self.identity, self.protocol, sha256="")


def check_unshuffle(
    model: str,
    choice: DecoderChoice,
    *,
    dataset: str,
    image_size: tuple[int, int, int],
    permutation_seeds: tuple[int, ...],
) -> tuple[DecoderSpec, Budget]:
    """Return the decoder and the budget of a plan; needs no data, and raises what `plan_unshuffle` raises."""
    resolved = choice.resolved(model, dataset=dataset, image_size=image_size)
    if not permutation_seeds:
        raise InvalidInputError("no permutation seed is given: name at least one, better three, such as 0,1,2")
    for chosen in permutation_seeds:
        PixelPermutation.everywhere(*image_size[1:], seed=chosen)
    return resolved


def plan_unshuffle(
    model: str,
    train: Examples,
    test: Examples,
    *,
    permutation_seeds: tuple[int, ...],
    seed: int,
    choice: DecoderChoice | None = None,
) -> UnshufflePlan:
    """Return the plan for `model`, convmixer_MODE; raises InvalidInputError or UnknownNameError for what cannot be.

    Without a `choice` all is as usual for the images.
    """
    channels, height, width = test.images.shape[1:]
    seeds = tuple(sorted(set(permutation_seeds)))
    spec, budget = check_unshuffle(
        model,
        choice or DecoderChoice(),
        dataset=test.name,
        image_size=(channels, height, width),
        permutation_seeds=seeds,
    )
    return UnshufflePlan(spec, budget, train, test, seeds, seed)


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """A record and the files that belong to it.

    Attributes:
        samples: The content of an npz archive of sample images; None where there are none.
        examples: The content of the per-example file; None where there is none.
    """

    record: ProbeRecord
    samples: bytes | None
    examples: bytes | None


def probe_unshuffle(
    plan: UnshufflePlan, *, device: str, workspace: Path | None = None, progress: ProgressCallback | None = None
) -> ProbeResult:
    """Return the record of decoders and controls, all trained on `device` with the same budget.

    What was trained is kept in the folder `workspace`, from which the same call goes on after a crash; the caller
    deletes it. Raises MixbenchError if a loss stops being finite.
    """
    return _Unshuffle(plan, torch.device(device), workspace, progress).run()


class _Unshuffle:
    """One probe: its images, and what was measured so far."""

    def __init__(
        self, plan: UnshufflePlan, device: torch.device, workspace: Path | None, progress: ProgressCallback | None
    ) -> None:
        self.plan, self.device, self.workspace, self.progress = plan, device, workspace, progress
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self.provenance = Provenance.collect(device=name)
        forget_peak_memory(device)
        self.train, self.test = as_tensor(plan.train.images, device), as_tensor(plan.test.images, device)
        shape = (min(_MOST_NOISE, len(self.test)), *self.test.shape[1:])
        self.noise = uniform_noise((shape[0], shape[1], shape[2], shape[3]), seed=plan.seed, device=device)
        self.measurements: list[Measurement] = []
        self.weights = hashlib.sha256()
        self.seconds: dict[str, float] = {}
        self.fits = 0
        self.samples: dict[str, np.ndarray] = {}
        self.values: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def run(self) -> ProbeResult:
        """Measure everything, the decoder first."""
        started = time.perf_counter()
        plan = self.plan
        height, width = self.test.shape[2:]
        permutations = {seed: PixelPermutation.everywhere(height, width, seed=seed) for seed in plan.permutation_seeds}
        decoders = [self._decoder(seed, permutation) for seed, permutation in permutations.items()]
        for seed, permutation in permutations.items():
            self._permuted_controls(seed, permutation)
        first = plan.permutation_seeds[0]
        self._circular(first, permutations[first])
        self._constant("mean_image", self.train.mean(0), self.test)
        self._constant("mean_image_on_noise", torch.full_like(self.noise[0], 0.5), self.noise)
        return self._result(decoders[0], time.perf_counter() - started)

    def _decoder(self, seed: int, permutation: PixelPermutation) -> Decoder:
        fitted = self._fit("decoder", self.plan.spec, self.train, seed, permutation)
        for tensor in fitted.decoder.state_dict().values():
            self.weights.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        self._measure("decoder", seed, permutation, lambda shuffled: decode(fitted.decoder, shuffled), self.test)
        self._measure("decoder_on_noise", seed, permutation, lambda x: decode(fitted.decoder, x), self.noise)
        return fitted.decoder

    def _permuted_controls(self, seed: int, permutation: PixelPermutation) -> None:
        started = time.perf_counter()
        dense = DenseLayer.fitted(permutation.shuffled(self.train), self.train)
        self._measure("dense", seed, permutation, dense, self.test)
        self._measure("dense_on_noise", seed, permutation, dense, self.noise)
        self._measure("identity", seed, permutation, lambda shuffled: shuffled, self.test)
        self._add_seconds("closed form controls", time.perf_counter() - started)

    def _circular(self, seed: int, permutation: PixelPermutation) -> None:
        """Measure the decoder without borders, on the images and on noise, which holds no landmarks either."""
        spec = replace(self.plan.spec, circular=True)
        fitted = self._fit("circular", spec, self.train, seed, permutation)
        self._measure("circular", seed, permutation, lambda shuffled: decode(fitted.decoder, shuffled), self.test)
        shape = self.train.shape
        noise = uniform_noise((shape[0], shape[1], shape[2], shape[3]), seed=self.plan.seed + 1, device=self.device)
        blind = self._fit("circular_trained_on_noise", spec, noise, seed, permutation)
        self._measure("circular_trained_on_noise", seed, permutation, lambda x: decode(blind.decoder, x), self.noise)

    def _fit(self, subject: str, spec: DecoderSpec, truth: Images, seed: int, permutation: PixelPermutation) -> Fitted:
        epochs, before = self.plan.budget.epochs, self.fits * self.plan.budget.epochs
        total = (len(self.plan.permutation_seeds) + 2) * epochs

        def heard(number: int, loss: float) -> None:
            if self.progress is not None:
                self.progress(Moment(f"{subject}, permutation {seed}", loss, before + number, total))

        fitted = fit_decoder(
            spec,
            permutation.shuffled(truth),
            truth,
            self.plan.budget,
            seed=self.plan.seed,
            state=None if self.workspace is None else self.workspace / f"{subject}-{seed}.pt",
            key=f"{self.plan.record_id} {subject} {seed} {self._origin}",
            progress=heard,
        )
        self.fits += 1
        self._add_seconds(subject, fitted.seconds)
        return fitted

    @property
    def _origin(self) -> str:
        """What else decides a training's bits: the code and the device."""
        made = self.provenance
        return f"{made.mixbench} {made.commit} {made.dirty} torch {torch.__version__} on {made.device}"

    def _measure(
        self,
        subject: str,
        seed: int,
        permutation: PixelPermutation,
        decoder: Callable[[Images], Images],
        truth: Images,
    ) -> None:
        shuffled = permutation.shuffled(truth)
        decoded = decoder(shuffled)
        curve = error_by_displacement(decoded, truth, permutation.displacements())
        mse, ssim = image_values(decoded, truth)
        if subject == "decoder":
            self.values[seed] = (mse.astype(np.float32), ssim.astype(np.float32))
        self.measurements.append(
            Measurement(
                subject=subject,
                permutation_seed=seed,
                metrics=metrics_of(mse, ssim),
                curves={"mse_by_displacement": curve},
            )
        )
        if seed == self.plan.permutation_seeds[0] and truth is self.test:
            rows = {"truth": truth, "shuffled": shuffled, subject: decoded}
            self.samples |= {name: _bytes_of(images[:_SAMPLES]) for name, images in rows.items()}

    def _constant(self, subject: str, image: torch.Tensor, truth: Images) -> None:
        metrics = image_metrics(image.expand_as(truth), truth)
        self.measurements.append(Measurement(subject=subject, permutation_seed=None, metrics=metrics, curves={}))

    def _add_seconds(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def _result(self, decoder: Decoder, seconds: float) -> ProbeResult:
        plan = self.plan
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **self.samples)
        samples = buffer.getvalue()
        examples = encode_probe_examples(np.array(plan.test.indices, dtype=np.int64), self.values)
        passes = self.fits * plan.budget.epochs * len(self.train)
        record = ProbeRecord(
            model=ModelIdentity(
                name=plan.model_name,
                sha256=self.weights.hexdigest(),
                mixing=plan.spec.mixing.value,
                filter_seed=plan.filter_seed,
                parameters=count_parameters(decoder),
            ),
            dataset=plan.dataset,
            probe=plan.identity,
            protocol=plan.protocol,
            measurements=tuple(self.measurements),
            warnings=tuple(_warnings(plan)),
            cost=Cost(
                forwards=passes,
                backwards=passes,
                seconds=seconds,
                seconds_by_stage=self.seconds,
                peak_memory_bytes=peak_memory_bytes(self.device),
            ),
            samples_sha256=hashlib.sha256(samples).hexdigest(),
            examples_sha256=hashlib.sha256(examples).hexdigest(),
            provenance=self.provenance,
        )
        return ProbeResult(record, samples, examples)


def _warnings(plan: UnshufflePlan) -> Iterator[str]:
    n = len(plan.permutation_seeds)
    if n < FEWEST_PERMUTATIONS:
        yield f"only {n} of at least {FEWEST_PERMUTATIONS} permutations: the number may be that of a lucky one"


def _bytes_of(images: Images) -> np.ndarray:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
