import json
from typing import Any

import pytest

from mixbench.errors import RecordError
from mixbench.probe_record import ProbeRecord
from tests.conftest import ROOT

GOLDEN_TEXT = (ROOT / "tests" / "golden" / "probe.json").read_text(encoding="utf-8")


def edited(*path: str | int, value: Any) -> str:
    """The golden record with another value at `path`."""
    content = json.loads(GOLDEN_TEXT)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(content)


def test_the_golden_record_is_read_and_written_as_it_was() -> None:
    record = ProbeRecord.from_json(GOLDEN_TEXT)
    assert record.to_json() == GOLDEN_TEXT
    assert record.id == "digits-convmixer_frozen-unshuffle-1c140e047b"
    assert [measurement.permutation_seed for measurement in record.of("decoder")] == [0, 1, 2]
    assert record.of("mean_image")[0].metrics["psnr"].value == 20.9


def test_every_truncated_record_is_refused() -> None:
    for length in range(0, len(GOLDEN_TEXT) - 1, 7):
        with pytest.raises(RecordError, match="is not JSON"):
            ProbeRecord.from_json(GOLDEN_TEXT[:length])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            edited("format", value="mixbench.evaluation/1"),
            "has format 'mixbench.evaluation/1', expected 'mixbench.probe",
        ),
        ("[]", "has format None"),
        (edited("surprise", value=1), "surprise: Extra inputs are not permitted"),
        (edited("cost", "surprise", value=1), "cost.surprise: Extra inputs"),
        (edited("dataset", "n", value="360"), "dataset.n: Input should be a valid integer"),
        (edited("dataset", "n", value=361), "protocol.hash is not the hash"),
        (edited("protocol", "seed", value=1), "protocol.hash is not the hash"),
        (edited("probe", "parameters", "depth", value="5"), "protocol.hash is not the hash"),
        (edited("protocol", "permutation_seeds", value=[1, 0]), "do not ascend"),
        (edited("measurements", value=[]), "measurements: Tuple should have at least 1 item"),
        (edited("measurements", 0, "permutation_seed", value=3), "decoder has permutation seed 3"),
        (edited("measurements", 0, "metrics", "mse", "low", value=1.0), "does not hold the value"),
        (edited("measurements", 0, "metrics", "mse", "value", value=float("nan")), "not JSON|finite"),
        (edited("measurements", 0, "curves", "mse_by_displacement", 0, "x", value=9.0), "does not ascend"),
    ],
)
def test_what_cannot_be_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        ProbeRecord.from_json(text, source="runs/x")


@pytest.mark.parametrize("key", json.loads(GOLDEN_TEXT))
def test_a_missing_key_is_refused_by_name(key: str) -> None:
    content = json.loads(GOLDEN_TEXT)
    del content[key]
    with pytest.raises(RecordError, match="has format None" if key == "format" else f"{key}: Field required"):
        ProbeRecord.from_json(json.dumps(content))
