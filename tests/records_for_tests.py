"""Any record that can be, edited copies of the golden one, and one with a table of three examples."""

import hashlib
import json
from datetime import UTC
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mixbench.records import (
    Accuracy,
    AttackIdentity,
    Cost,
    DatasetIdentity,
    EvaluationRecord,
    ModelIdentity,
    ParameterCounts,
    Protocol,
    Provenance,
    ThreatModelField,
    protocol_hash,
)
from mixbench.threat_model import Norm

ROOT = Path(__file__).resolve().parents[1]
GOLDEN_TEXT = (ROOT / "tests" / "golden" / "record.json").read_text(encoding="utf-8")
Content = dict[str, Any]

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
counts = st.integers(0, 2**40)
seeds = st.integers(0, 2**63)
seconds = st.floats(0, 1e9)
radii = st.fractions(min_value=0, max_value=1).filter(bool)


@st.composite
def records(draw: st.DrawFn) -> EvaluationRecord:
    """Any record that can be."""
    n = draw(st.integers(1, 10**6))
    correct = draw(st.integers(0, n))
    broken = draw(st.integers(0, correct))
    first = draw(st.integers(0, broken))
    dataset = draw(
        st.builds(DatasetIdentity, name=names, split=names, subset=names, fingerprint=hashes, n=st.just(n)),
    )
    attack = draw(
        st.builds(
            AttackIdentity,
            name=names,
            version=names,
            implementation=names,
            parameters=st.dictionaries(texts, texts, max_size=3),
        )
    )
    threat_model = ThreatModelField(norm=draw(st.sampled_from(Norm)), eps=draw(radii))
    top = threat_model.eps
    settings: dict[str, Any] = {
        "block_size": draw(st.integers(1, 10**6)),
        "seed": draw(seeds),
        "eps_grid": (*sorted(draw(st.sets(radii.filter(lambda eps: eps < top), max_size=2))), top),
    }
    digest = protocol_hash(dataset=dataset, attack=attack, threat_model=threat_model, **settings)
    return EvaluationRecord(
        model=draw(
            st.builds(
                ModelIdentity,
                name=names,
                sha256=hashes,
                filter_seed=st.none() | seeds,
                parameters=st.builds(ParameterCounts, trained=counts, frozen=counts),
            )
        ),
        dataset=dataset,
        attack=attack,
        threat_model=threat_model,
        protocol=Protocol(**settings, hash=digest),
        clean=Accuracy(correct=correct, total=n),
        robust=Accuracy(correct=correct - broken, total=n),
        broken_by={"first": first, "second": broken - first},
        borderline=draw(st.integers(0, n)),
        warnings=draw(st.lists(texts, max_size=2).map(tuple)),
        cost=draw(
            st.builds(
                Cost,
                forwards=counts,
                backwards=counts,
                seconds=seconds,
                seconds_by_stage=st.dictionaries(texts, seconds, max_size=2),
                peak_memory_bytes=counts,
            )
        ),
        examples_sha256=draw(hashes),
        adversarials_sha256=draw(st.none() | hashes),
        provenance=draw(
            st.builds(
                Provenance,
                commit=st.none() | texts,
                dirty=st.none() | st.booleans(),
                packages=st.dictionaries(texts, texts, max_size=2),
                precision=st.sampled_from(["float32", "float32; searched in float16 (channel-major, Triton)"]),
                started=st.datetimes(timezones=st.just(UTC)),
            )
        ),
    )


def leaves(content: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else None
    return [path] if items is None else [leaf for key, value in items for leaf in leaves(value, (*path, key))]


def with_value(path: tuple[str | int, ...], value: Any) -> Content:
    """The content of the golden record with another value at `path`."""
    content = json.loads(GOLDEN_TEXT)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


def with_hash(path: tuple[str | int, ...], value: Any) -> Content:
    """As `with_value`, sealed by the protocol hash that the edited record should have."""
    content = with_value(path, value)
    content["protocol"]["hash"] = protocol_hash(
        dataset=DatasetIdentity(**content["dataset"]),
        attack=AttackIdentity(**content["attack"]),
        threat_model=ThreatModelField(**content["threat_model"]),
        block_size=content["protocol"]["block_size"],
        seed=content["protocol"]["seed"],
        eps_grid=tuple(Fraction(eps) for eps in content["protocol"]["eps_grid"]),
    )
    return content


def with_seed(record: EvaluationRecord, seed: int) -> EvaluationRecord:
    """The record as a run with another seed would have made it, sealed by its protocol hash."""
    protocol = record.protocol
    digest = protocol_hash(
        dataset=record.dataset,
        attack=record.attack,
        threat_model=record.threat_model,
        block_size=protocol.block_size,
        seed=seed,
        eps_grid=protocol.eps_grid,
    )
    return record.model_copy(update={"protocol": protocol.model_copy(update={"seed": seed, "hash": digest})})


def three_examples() -> dict[str, np.ndarray]:
    """Three examples: broken, misclassified, robust."""
    return {
        "index": np.array([4, 5, 9]),
        "label": np.array([1, 2, 3]),
        "clean_prediction": np.array([1, 7, 3]),
        "margin": np.array([0.5, -1.25, 3.0], dtype=np.float32),
        "broken": np.array([True, False, False]),
        "broken_by": np.array(["pgd", None, None], dtype=object),
        "eps": np.array(["1/10", None, None], dtype=object),
        "adversarial_prediction": np.array([8, None, None], dtype=object),
        "adversarial_margin": np.array([-0.25, None, None], dtype=object),
        "norm": np.array([0.1, None, None], dtype=object),
        "forwards": np.array([51, 1, 251]),
        "backwards": np.array([50, 0, 250]),
    }


def record_of_three(examples: bytes) -> EvaluationRecord:
    """The golden record, shrunk to the three examples of the file `examples`."""
    golden = EvaluationRecord.from_json(GOLDEN_TEXT)
    counts = {
        "dataset": golden.dataset.model_copy(update={"n": 3}),
        "clean": Accuracy(correct=2, total=3),
        "robust": Accuracy(correct=1, total=3),
        "broken_by": {"fgsm": 0, "pgd": 1},
        "cost": golden.cost.model_copy(update={"forwards": 303, "backwards": 300}),
        "examples_sha256": hashlib.sha256(examples).hexdigest(),
    }
    return with_seed(golden.model_copy(update=counts), 7)
