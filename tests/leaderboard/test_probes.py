import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mixbench.leaderboard import build, rank, read, render
from mixbench.leaderboard.probes import score
from tests.leaderboard.boards_for_tests import add_decoding, add_recognition

FROZEN, TRAINED = "convmixer_frozen.toy", "convmixer_trained.toy"


def pages(folder: Path) -> tuple[str, str]:
    files = render(rank(read(folder)))
    return files["index.html"].decode(), files["README.md"].decode()


def test_a_board_shows_what_its_checkpoints_recognise_of_shuffled_images(folder: Path) -> None:
    record = add_recognition(folder, FROZEN, areas=[0.4])
    html, markdown = pages(folder)
    assert "40.0<small>30.0 to 50.0</small>" in html
    assert "80.0 with none, 40.0 with 2 x 2, 10.0 with 8 x 8" in html
    row = next(line for line in markdown.splitlines() if record.id in line)
    assert [cell.strip() for cell in row.split("|")[2:7]] == ["80.0", "40.0", "10.0", "40.0 (30.0 to 50.0)", "-"]


def test_a_board_without_probes_has_no_table_of_them(folder: Path) -> None:
    html, markdown = pages(folder)
    assert "Shuffled pixels" not in html
    assert "Decoding" not in html
    assert "shuffled" not in markdown


def test_of_several_permutations_the_mean_and_the_range_are_shown(folder: Path) -> None:
    found = score(add_recognition(folder, FROZEN, areas=[0.2, 0.3, 0.4]), "model", "area_by_tile")
    assert found is not None
    assert (found.value, found.low, found.high, found.permutations) == (pytest.approx(0.3), 0.2, 0.4, 3)
    assert score(add_recognition(folder, TRAINED), "model", "psnr") is None


def test_a_score_is_that_of_the_checkpoint_with_its_hash_and_dataset(folder: Path) -> None:
    add_recognition(folder, FROZEN, sha256="b" * 64)
    add_recognition(folder, FROZEN, dataset="other")
    html, markdown = pages(folder)
    assert "40.0<small>" not in html
    assert "with shuffled pixels" not in markdown


def test_scores_of_another_protocol_are_not_mixed_in(folder: Path) -> None:
    add_recognition(folder, FROZEN, areas=[0.4])
    add_recognition(folder, TRAINED, areas=[0.5])
    add_recognition(folder, "resnet_frozen.toy", areas=[0.6], n=100)
    assert {name for _, name, _ in rank(read(folder)).recognitions} == {FROZEN, TRAINED}


def test_decoders_of_one_protocol_share_a_table_and_its_picture(folder: Path) -> None:
    records = [add_decoding(folder, name, psnr=[20.0, 22.0]) for name in ("convmixer_frozen", "convmixer_trained")]
    other = add_decoding(folder, "convmixer_frozen", epochs="9")
    (folder / "pictures").mkdir()
    (folder / "pictures" / records[0].picture_name).write_bytes(b"")
    decodings = rank(read(folder)).decodings
    assert sorted(len(decoding.records) for decoding in decodings) == [1, 2]
    assert {decoding.first.protocol.hash: decoding.picture for decoding in decodings} == {
        records[0].protocol.hash: f"pictures/{records[0].picture_name}",
        other.protocol.hash: None,
    }
    html, markdown = pages(folder)
    assert html.count("21.0<small>20.0 to 22.0</small>") == 2
    assert html.count("20.0<small>19.5 to 20.5</small>") == 1
    assert "depth 4, width 48, kernel 5, 9 epochs" in markdown
    assert "no decoding 6.0 dB" in markdown


def test_a_strangers_probe_may_lack_what_ours_have(folder: Path) -> None:
    record = add_recognition(folder, FROZEN)
    path = folder / "records" / record.id / "probe.json"
    content = json.loads(path.read_text())
    content["measurements"][0] |= {"metrics": {}, "curves": {}, "subject": "<b>other</b>"}
    path.write_text(json.dumps(content))
    html, markdown = pages(folder)
    assert record.id in html
    assert record.id in markdown


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda at: (at / "probe.json").write_text("{"), "not JSON"),
    "unknown version": (
        lambda at: (at / "probe.json").write_text('{"format": "mixbench.probe/9"}'),
        "mixbench.probe/9",
    ),
    "edited": (
        lambda at: (at / "probe.json").write_text((at / "probe.json").read_text().replace('"n": 360', '"n": 36')),
        "protocol.hash is not the hash",
    ),
    "unreadable": (lambda at: ((at / "probe.json").unlink(), (at / "probe.json").mkdir()), "cannot read"),
    "duplicate": (lambda at: shutil.copytree(at, at.with_name("copy")), "duplicate of"),
    "in another folder": (lambda at: at.rename(at.with_name("elsewhere")), "not in its own folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_trusted_is_named_and_left_out(folder: Path, fault: str) -> None:
    record = add_recognition(folder, FROZEN)
    change, message = FAULTS[fault]
    change(folder / "records" / record.id)
    built = build(folder)
    assert len(built.faults) == 1
    assert message in built.faults[0]
    assert len(rank(read(folder)).recognitions) == (1 if fault == "duplicate" else 0)
