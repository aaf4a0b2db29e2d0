"""A folder of leaderboards with records whose verdicts are chosen, made of the golden record."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import numpy as np

from mixbench.probe_record import (
    Estimate,
    Measurement,
    Point,
    ProbeIdentity,
    ProbeProtocol,
    ProbeRecord,
    probe_hash,
)
from mixbench.records import (
    Accuracy,
    AttackIdentity,
    DatasetIdentity,
    EvaluationRecord,
    ParameterCounts,
    Protocol,
    ThreatModelField,
    protocol_hash,
)
from mixbench.store import Store, encode_examples
from mixbench.threat_model import Norm
from tests.conftest import ROOT
from tests.records_for_tests import GOLDEN_TEXT

GOLDEN = EvaluationRecord.from_json(GOLDEN_TEXT)
GOLDEN_PROBE = ProbeRecord.from_json((ROOT / "tests" / "golden" / "probe.json").read_text(encoding="utf-8"))
FINGERPRINT = "d" * 64
GRID = ("1/20", "1/10")
STAGES = {"pgd": ("pgd",), "autoattack": ("apgd-ce", "square")}
PROTOCOL = """
title = "Toy"
dataset = "toy"
split = "test"
seed = 7
block_size = 1000
headline = {{ attack = "autoattack", threat_model = "Linf 1/10", subset = "all" }}
subsets.all = {{ n = {n}, fingerprint = "{fingerprint}" }}

[[evaluations]]
attack = "pgd"
parameters = {{ steps = "20" }}
norm = "Linf"
eps = ["1/20", "1/10"]
subset = "all"

[[evaluations]]
attack = "autoattack"
norm = "Linf"
eps = ["1/20", "1/10"]
subset = "all"
"""

HEADLINE = """
[subsets.half]
n = {n}
fingerprint = "{fingerprint}"

[[evaluations]]
attack = "pgd"
parameters = {{ steps = "20" }}
norm = "Linf"
eps = ["1/10"]
subset = "half"
"""
HALF_FINGERPRINT = "e" * 64


@dataclass(frozen=True)
class Toy:
    """A model of the toy board: its name, hash and what became of its examples.

    Attributes:
        fates: "robust", "wrong", or "STAGE@EPS" for an example broken first at that radius, an entry an example.
    """

    name: str
    fates: Sequence[str]
    sha256: str = "a" * 64
    mixing: str = "frozen"
    warnings: tuple[str, ...] = ()


def write_protocol(folder: Path, *, n: int) -> None:
    """Make `folder` a folder of leaderboards with the toy board."""
    (folder / "protocols").mkdir(parents=True)
    (folder / "protocols" / "toy.toml").write_text(PROTOCOL.format(n=n, fingerprint=FINGERPRINT))


def show_half(folder: Path, *, n: int) -> None:
    """Let the toy board have a second set of examples, attacked by PGD at one radius, as its headline."""
    path = folder / "protocols" / "toy.toml"
    headline = 'headline = { attack = "pgd", threat_model = "Linf 1/10", subset = "half" }'
    lines = [headline if line.startswith("headline") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + HEADLINE.format(n=n, fingerprint=HALF_FINGERPRINT))


def write_card(zoo: Path, name: str, *, sha256: str = "a" * 64, recipe: str = "standard") -> None:
    """Put a checkpoint's config.json, without weights, into `zoo`."""
    card = {
        "sha256": sha256, "mixing": "frozen", "filter_scheme": "uniform", "filter_seed": 3, "seed": 0,
        "recipe": recipe, "dataset": "toy", "clean": {"correct": 9, "total": 10},
        "parameters": {"trained": 11002, "frozen": 1920}, "epochs": 3, "seconds": 1.5, "device": "cpu",
        "command": "mixbench train --model convmixer_frozen",
    }  # fmt: skip
    (zoo / name).mkdir(parents=True)
    config = {"architecture": name.partition(".")[0], "model_args": {"dim": 48}, "mixbench": card}
    (zoo / name / "config.json").write_text(json.dumps(config))


def add_records(
    folder: Path, toy: Toy, *, attack: str = "pgd", grid: Sequence[str] = GRID, seed: int = 7, steps: str = "20",
    subset: str = "all",
) -> list[EvaluationRecord]:  # fmt: skip
    """Add the records of one attack on `toy` at every radius of `grid` to the store, and return them."""
    return [
        _add(folder, toy, attack, grid[: upto + 1], seed=seed, steps=steps, subset=subset) for upto in range(len(grid))
    ]


def add_recognition(
    folder: Path,
    name: str,
    *,
    sha256: str = "a" * 64,
    areas: Sequence[float] = (0.4,),
    n: int = 360,
    dataset: str = "toy",
) -> ProbeRecord:
    """Add a recognize record with these areas by tile, one a permutation, and an accuracy twice as high."""
    measurements = tuple(
        Measurement(
            subject="model",
            permutation_seed=seed,
            metrics={"area_by_tile": Estimate(value=area, low=area - 0.1, high=area + 0.1)},
            curves={
                "accuracy_by_tile": tuple(
                    Point(x=side, n=n, y=Estimate(value=rate, low=rate, high=rate))
                    for side, rate in ((1.0, 2 * area), (2.0, area), (8.0, 0.1))
                )
            },
        )
        for seed, area in enumerate(areas)
    )
    probe = ProbeIdentity(name="recognize", parameters={"tiles": "2,8"})
    return _add_probe(folder, name, probe, measurements, range(len(areas)), sha256=sha256, n=n, dataset=dataset)


def add_decoding(folder: Path, name: str, *, psnr: Sequence[float] = (20.0,), epochs: str = "2") -> ProbeRecord:
    """Add an un-shuffle record whose decoder has these PSNR, one a permutation."""
    measurements = tuple(
        Measurement(
            subject=subject,
            permutation_seed=seed,
            metrics={"psnr": Estimate(value=value, low=value - 0.5, high=value + 0.5)},
            curves={},
        )
        for seed, value in enumerate(psnr)
        for subject, value in (("decoder", value), ("identity", 6.0))
    )
    parameters = {"depth": "4", "width": "48", "kernel": "5", "epochs": epochs}
    probe = ProbeIdentity(name="unshuffle", parameters=parameters)
    return _add_probe(folder, name, probe, measurements, range(len(psnr)), sha256="d" * 64, n=360, dataset="toy")


def _add_probe(
    folder: Path,
    name: str,
    probe: ProbeIdentity,
    measurements: tuple[Measurement, ...],
    seeds: Sequence[int],
    *,
    sha256: str,
    n: int,
    dataset: str,
) -> ProbeRecord:
    data = DatasetIdentity(name=dataset, split="test", subset="all", fingerprint=FINGERPRINT, n=n)
    digest = probe_hash(dataset=data, probe=probe, seed=0, permutation_seeds=tuple(seeds))
    record = GOLDEN_PROBE.model_copy(
        update={
            "model": GOLDEN_PROBE.model.model_copy(update={"name": name, "sha256": sha256}),
            "dataset": data,
            "probe": probe,
            "protocol": ProbeProtocol(seed=0, permutation_seeds=tuple(seeds), hash=digest),
            "measurements": measurements,
            "samples_sha256": None,
            "examples_sha256": None,
        }
    )
    Store(folder / "records").add_probe(record, samples=None, examples=None)
    return record


def _add(
    folder: Path, toy: Toy, attack: str, grid: Sequence[str], *, seed: int, steps: str, subset: str
) -> EvaluationRecord:
    radii = tuple(Fraction(eps) for eps in grid)
    fates = [fate if "@" not in fate or Fraction(fate.partition("@")[2]) in radii else "robust" for fate in toy.fates]
    examples = encode_examples(_table(fates))
    n, wrong = len(fates), fates.count("wrong")
    stages = [fate.partition("@")[0] for fate in fates if "@" in fate]
    fingerprint = FINGERPRINT if subset == "all" else HALF_FINGERPRINT
    data = DatasetIdentity(name="toy", split="test", subset=subset, fingerprint=fingerprint, n=n)
    parameters = {"steps": steps, "relative_step_size": "0.1", "restarts": "1"} if attack == "pgd" else {}
    library = "foolbox 3.3.4" if attack == "pgd" else "pyautoattack 0.2.0"
    identity = AttackIdentity(name=attack, version="standard", implementation=library, parameters=parameters)
    threat_model = ThreatModelField(norm=Norm.LINF, eps=radii[-1])
    settings = {"block_size": 1000, "seed": seed, "eps_grid": radii}
    digest = protocol_hash(dataset=data, attack=identity, threat_model=threat_model, **settings)
    record = GOLDEN.model_copy(
        update={
            "model": GOLDEN.model.model_copy(
                update={
                    "name": toy.name,
                    "sha256": toy.sha256,
                    "mixing": toy.mixing,
                    "parameters": ParameterCounts(trained=11002, frozen=0 if toy.mixing == "trained" else 1920),
                }
            ),
            "dataset": data,
            "attack": identity,
            "threat_model": threat_model,
            "protocol": Protocol(**settings, hash=digest),
            "clean": Accuracy(correct=n - wrong, total=n),
            "robust": Accuracy(correct=fates.count("robust"), total=n),
            "broken_by": {stage: stages.count(stage) for stage in STAGES[attack]},
            "borderline": 0,
            "warnings": toy.warnings,
            "cost": GOLDEN.cost.model_copy(update={"forwards": 3 * n, "backwards": 2 * n}),
            "examples_sha256": hashlib.sha256(examples).hexdigest(),
            "provenance": GOLDEN.provenance.model_copy(update={"started": datetime(2026, 1, 2, tzinfo=UTC)}),
        }
    )
    Store(folder / "records").add(record, examples=examples)
    return record


def _table(fates: Sequence[str]) -> dict[str, np.ndarray]:
    n = len(fates)
    label = np.arange(n) % 10
    broken = ["@" in fate for fate in fates]

    def where_broken(values: Sequence[object]) -> np.ndarray:
        return np.array([value if hit else None for value, hit in zip(values, broken, strict=True)], dtype=object)

    return {
        "index": np.arange(n),
        "label": label,
        "clean_prediction": np.array([(y + (fate == "wrong")) % 10 for y, fate in zip(label, fates, strict=True)]),
        "margin": np.array([-1.0 if fate == "wrong" else 1.0 for fate in fates], dtype=np.float32),
        "broken": np.array(broken, dtype=bool),
        "broken_by": where_broken([fate.partition("@")[0] for fate in fates]),
        "eps": where_broken([fate.partition("@")[2] for fate in fates]),
        "adversarial_prediction": where_broken([int(y + 1) % 10 for y in label]),
        "adversarial_margin": where_broken([-0.5] * n),
        "norm": where_broken([0.0001] * n),
        "forwards": np.full(n, 3),
        "backwards": np.full(n, 2),
    }
