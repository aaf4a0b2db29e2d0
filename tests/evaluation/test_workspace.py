import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mixbench.errors import RecordError
from mixbench.evaluation import remove_workspace
from mixbench.evaluation.workspace import StageResult, Workspace

KEY = {"model": "toy", "sha256": "abc", "device": "cpu"}


def result() -> StageResult:
    generator = np.random.Generator(np.random.PCG64(0))
    return StageResult(
        positions=np.array([3, 5, 8]),
        broken=np.array([True, False, True]),
        adversarials=generator.random((2, 1, 4, 4), dtype=np.float32),
        predictions=np.array([1, 0]),
        margins=np.array([-0.5, -1e-9], dtype=np.float32),
        norms=np.array([0.1, 1 / 3]),
        forwards=np.array([10, 20, 5]),
        backwards=np.array([1, 2, 0]),
        warnings=("said “this”", "and that"),
        seconds=1.25,
        peak_memory_bytes=2**40,
    )


def equal(one: StageResult, other: StageResult) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(StageResult)]
    return all(
        type(a) is type(b) and (a.dtype == b.dtype and np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b)
        for a, b in pairs
    )


def opened(folder: Path, **changes: str) -> Workspace:
    workspace = Workspace(folder, KEY | changes)
    workspace.open()
    return workspace


def nothing_found() -> StageResult:
    return dataclasses.replace(
        result(),
        broken=np.array([False, False, False]),
        adversarials=np.empty((0, 1, 4, 4), dtype=np.float32),
        predictions=np.empty(0, dtype=np.int64),
        margins=np.empty(0, dtype=np.float32),
        norms=np.empty(0),
        warnings=(),
    )


@pytest.mark.parametrize("kept", [result(), nothing_found()], ids=["found", "nothing-found"])
def test_a_finished_stage_comes_back_as_it_was(kept: StageResult, tmp_path: Path) -> None:
    opened(tmp_path / "run").save("block", kept)
    found = opened(tmp_path / "run").load("block")
    assert found is not None
    assert equal(found, kept)


def test_a_stage_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    assert opened(tmp_path).load("block") is None


def test_no_damage_to_a_file_is_taken_for_a_result_or_raises(tmp_path: Path) -> None:
    """Each byte in turn is flipped: what is loaded, if anything, is what was saved."""
    workspace, kept = opened(tmp_path), result()
    workspace.save("block", kept)
    path = tmp_path / "block.npz"
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), 5):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        found = workspace.load("block")
        refused += found is None
        assert found is None or equal(found, kept)
    assert refused > len(content) / 5 / 2


@pytest.mark.parametrize("length", [0, 1, 100, -1], ids=["empty", "one-byte", "start", "all-but-one-byte"])
def test_a_truncated_file_is_no_result(length: int, tmp_path: Path) -> None:
    workspace = opened(tmp_path)
    workspace.save("block", result())
    path = tmp_path / "block.npz"
    path.write_bytes(path.read_bytes()[:length])
    assert workspace.load("block") is None


def test_a_folder_in_the_place_of_a_result_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "block.npz").mkdir()
    assert opened(tmp_path).load("block") is None


def test_the_workspace_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(
        RecordError, match=r"holds the finished blocks of another run \(other device, sha256\)"
    ) as caught:
        opened(tmp_path, device="cuda", sha256="def")
    assert "choose another --workspace, or delete it" in str(caught.value)
    opened(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": "mixbench.workspace/0"}', "\xff"], ids=repr)
def test_a_workspace_with_a_manifest_that_is_not_ours_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RecordError, match="of another run"):
        opened(tmp_path)


def test_a_manifest_that_says_more_is_of_another_run(tmp_path: Path) -> None:
    opened(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"shard": "1/2"}))
    with pytest.raises(RecordError, match=r"another run \(other shard\)"):
        opened(tmp_path)


def test_a_workspace_that_cannot_be_made_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match=r"cannot write .*manifest.json: a (part of the path|file is in the way)"):
        opened(tmp_path / "file" / "run")


def test_a_result_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "file", KEY)
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot write"):
        workspace.save("block", result())


def test_removing_a_workspace_takes_no_other_folder_away(tmp_path: Path) -> None:
    opened(tmp_path / "run").save("block", result())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    for folder in ("run", "other", "missing"):
        remove_workspace(tmp_path / folder)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert (tmp_path / "other" / "thesis.tex").is_file()


def test_a_folder_with_files_of_the_user_is_refused_and_left_alone(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    with pytest.raises(RecordError, match="holds files of yours: choose an empty or a new folder"):
        Workspace(tmp_path, {"model": "a"}).open()
    remove_workspace(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_removing_a_workspace_keeps_what_the_user_put_there_since(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    Workspace(folder, {"model": "a"}).open()
    (folder / "notes.txt").write_text("mine")
    (folder / "block-00000.npz").write_bytes(b"a stage")
    remove_workspace(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_stage_of_another_run_is_not_believed_even_where_the_manifest_is_lost(tmp_path: Path) -> None:
    first = Workspace(tmp_path, {"model": "a"})
    first.open()
    first.save("stage", result())
    (tmp_path / "manifest.json").unlink()
    second = Workspace(tmp_path, {"model": "b"})
    second.open()
    assert first.load("stage") is not None
    assert second.load("stage") is None
