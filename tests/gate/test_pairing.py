from pathlib import Path

import pytest

from mixbench.errors import RecordError
from mixbench.gate import baseline_of, is_superseded, pair_up, read_evaluations
from tests.evaluations_for_tests import evaluation_of

_FATES = ["robust", "wrong", "apgd-ce"]
_OTHER = {"name": "resnet_frozen.digits"}


def test_records_are_read_from_folder_file_and_store(tmp_path: Path) -> None:
    first = evaluation_of(tmp_path, _FATES)
    second = evaluation_of(tmp_path, _FATES, model=_OTHER)
    ids = [item.record.id for item in read_evaluations([first.folder, second.folder / "record.json", tmp_path])]
    assert ids == [first.record.id, second.record.id, *sorted([first.record.id, second.record.id])]


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no records"):
        read_evaluations([tmp_path])
    with pytest.raises(RecordError, match="cannot read"):
        read_evaluations([tmp_path / "nothing"])


def test_candidates_find_their_baselines_by_name_data_attack_and_threat_model(tmp_path: Path) -> None:
    before = [evaluation_of(tmp_path / "a", _FATES), evaluation_of(tmp_path / "a", _FATES, model=_OTHER)]
    after = [
        evaluation_of(tmp_path / "b", _FATES, sha256="b" * 64, model=_OTHER),
        evaluation_of(tmp_path / "b", _FATES, sha256="c" * 64),
    ]
    pairs = pair_up(before, after, margin=2.0)
    assert [(pair.baseline, pair.candidate, pair.margin) for pair in pairs] == [
        (before[0], after[1], 2.0),
        (before[1], after[0], 2.0),
    ]


def test_every_baseline_needs_a_candidate_and_every_candidate_a_baseline(tmp_path: Path) -> None:
    one, other = evaluation_of(tmp_path, _FATES), evaluation_of(tmp_path, _FATES, model=_OTHER)
    with pytest.raises(RecordError, match=f"the baseline {other.record.id} has no candidate"):
        pair_up([one, other], [one], margin=1.0)
    with pytest.raises(RecordError, match=f"the candidate {other.record.id} has no baseline, which is no pass"):
        pair_up([one], [one, other], margin=1.0)
    with pytest.raises(RecordError, match="has no candidate"):
        pair_up([one], [other], margin=1.0)


def test_another_name_is_paired_only_on_request(tmp_path: Path) -> None:
    one, other = evaluation_of(tmp_path, _FATES), evaluation_of(tmp_path, _FATES, model=_OTHER)
    (pair,) = pair_up([one], [other], margin=1.0, any_model=True)
    assert (pair.baseline, pair.candidate) == (one, other)


def test_two_of_the_same_are_refused_by_their_folders(tmp_path: Path) -> None:
    one = evaluation_of(tmp_path / "a", _FATES)
    twin = evaluation_of(tmp_path / "b", _FATES, seed=3)
    with pytest.raises(RecordError, match=f"{one.folder} and {twin.folder} are both of convmixer_frozen"):
        pair_up([one], [one, twin], margin=1.0)


def test_the_baseline_of_the_same_protocol_is_taken(tmp_path: Path) -> None:
    kept = [evaluation_of(tmp_path / "a", _FATES, seed=seed) for seed in (0, 1)]
    planned = evaluation_of(tmp_path / "b", _FATES, seed=1, sha256="b" * 64).record
    assert baseline_of(planned, kept) is kept[1]


def test_a_baseline_that_is_missing_double_or_of_another_protocol_is_refused(tmp_path: Path) -> None:
    planned = evaluation_of(tmp_path / "b", _FATES, seed=2).record
    with pytest.raises(RecordError, match=r"there is no baseline of convmixer_frozen.*--update-baseline"):
        baseline_of(planned, [evaluation_of(tmp_path / "a", _FATES, model=_OTHER)])
    with pytest.raises(RecordError, match="cannot be compared: their seed is 1 and 2"):
        baseline_of(planned, [evaluation_of(tmp_path / "a", _FATES, seed=1)])
    twins = [evaluation_of(tmp_path / "a", _FATES, seed=2, sha256=letter * 64) for letter in "ab"]
    with pytest.raises(RecordError, match="are both baselines of convmixer_frozen"):
        baseline_of(planned, twins)


def test_a_baseline_is_superseded_by_other_weights_or_another_protocol_of_the_same_name(tmp_path: Path) -> None:
    old = evaluation_of(tmp_path, _FATES).record
    assert is_superseded(old, by=evaluation_of(tmp_path, _FATES, sha256="b" * 64).record)
    assert is_superseded(old, by=evaluation_of(tmp_path, _FATES, seed=1).record)
    assert not is_superseded(old, by=old)
    assert not is_superseded(old, by=evaluation_of(tmp_path, _FATES, model=_OTHER).record)
