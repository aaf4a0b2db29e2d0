import hashlib
import json
import shutil
from pathlib import Path

import pytest

from mixbench.errors import RecordError
from mixbench.leaderboard.reading import read
from mixbench.probe_record import ProbeRecord
from mixbench.store import Store, encode_examples, load_probe, probe_schema
from tests.conftest import ROOT
from tests.json_schema import fits
from tests.records_for_tests import record_of_three, three_examples
from tests.test_probe_record import GOLDEN_TEXT, edited

RECORD = ProbeRecord.from_json(GOLDEN_TEXT)
SAMPLES = b"samples"
WITH_SAMPLES = RECORD.model_copy(update={"samples_sha256": hashlib.sha256(SAMPLES).hexdigest()})


def test_records_of_probes_and_evaluations_do_not_meet(tmp_path: Path) -> None:
    store = Store(tmp_path)
    examples = encode_examples(three_examples())
    evaluation = record_of_three(examples)
    store.add(evaluation, examples=examples)
    store.add_probe(WITH_SAMPLES, samples=SAMPLES, examples=None)
    assert store.records() == (evaluation,)
    assert store.probes() == (WITH_SAMPLES,)
    assert (store.find(RECORD.id), store.find_probe(evaluation.id)) == (None, None)
    assert store.find_probe(RECORD.id) == WITH_SAMPLES


def test_a_leaderboard_passes_over_probes(tmp_path: Path) -> None:
    Store(tmp_path / "records").add_probe(RECORD, samples=None, examples=None)
    shutil.copytree(ROOT / "leaderboards" / "protocols", tmp_path / "protocols")
    assert read(tmp_path).faults == ()


def test_samples_of_another_record_are_refused_and_changed_ones_are_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RecordError, match="samples do not belong"):
        store.add_probe(WITH_SAMPLES, samples=b"others", examples=None)
    folder = store.add_probe(WITH_SAMPLES, samples=SAMPLES, examples=None)
    (folder / "samples.npz").write_bytes(b"others")
    with pytest.raises(RecordError, match=r"not the file that probe\.json was written with: probe again"):
        load_probe(folder)


@pytest.mark.parametrize("content", [None, b"\xff", b"{}"])
def test_what_is_no_record_of_a_probe_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "probe.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"probe\.json"):
        load_probe(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOLDEN_TEXT, True),
        (edited("examples_sha256", value="ab" * 32), True),
        (edited("examples_sha256", value="ab"), False),
        (edited("surprise", value=1), False),
        (edited("measurements", value=[]), False),
        (edited("measurements", 0, "permutation_seed", value=-1), False),
        (edited("measurements", 0, "curves", "mse_by_displacement", 0, "n", value=0), False),
        (edited("probe", "name", value="guess"), False),
    ],
)
def test_the_schema_takes_the_golden_record_and_refuses_edited_ones(text: str, *, expected: bool) -> None:
    schema = json.loads(probe_schema())
    assert fits(json.loads(text), schema, schema["$defs"]) is expected
