"""Submissions that are not what they say: each fails at the one check that is there for it, with its reason."""

import io
import json
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load, save

from mixbench.datasets import load_examples
from mixbench.evaluation.verification import judge
from mixbench.store import _SCHEMA
from mixbench.submission import Status, VerificationReport
from tests.submission.conftest import Verify
from tests.submission.forging import (
    ADVERSARIALS,
    CARD,
    CONFIG,
    EXAMPLES,
    MANIFEST,
    WEIGHTS,
    Forge,
    Json,
    copied,
    edit_json,
    edited,
    edited_images,
    edited_record,
    edited_table,
    edited_weights,
    network,
    pickled,
    read_table,
    record_folder,
    replaced,
    reseal,
    safetensors_header,
    sealed_record,
    write_table,
)


def refused(report: VerificationReport, check: str, *fragments: str) -> bool:
    """Whether `check` alone failed, with all `fragments` in its reason."""
    failed = {row.check: row.reason for row in report.checks if row.status is Status.FAIL}
    assert list(failed) == [check], failed
    assert [fragment for fragment in fragments if fragment not in failed[check]] == [], failed
    assert not report.passed
    return True


def test_an_honest_submission_passes_every_check(report: VerificationReport) -> None:
    assert report.passed, report.to_markdown()
    assert {row.status for row in report.checks} <= {Status.PASS, Status.WARN}
    assert [row.check for row in report.checks] == [
        *("files", "manifest", "hashes", "card", "environment", "config", "records", "examples", "dataset", "labels"),
        *("protocol", "weights", "build", "frozen", "checkpoint", "identity", "logits", "eval mode", "determinism"),
        *("input range", "gradients", "clean accuracy", "adversarials", "re-attack", "masking"),
    ]


def test_what_failed_leaves_the_rest_unlooked_at(honest: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(honest, tmp_path)
    (folder / WEIGHTS).unlink()
    report = check(folder)
    assert [row.status for row in report.checks[2:]] == [Status.SKIP] * 23
    assert (report.bundle_sha256, report.submission) == (None, honest.name)


def _symlink(folder: Path) -> None:
    (folder / CARD).unlink()
    (folder / CARD).symlink_to("/etc/passwd")


def _folder_link(folder: Path) -> None:
    (folder / "records").rename(folder.parent / "elsewhere")
    (folder / "records").symlink_to(folder.parent / "elsewhere", target_is_directory=True)


def _added(name: str) -> Forge:
    return lambda folder: (folder / name).write_text("x") and None


def _pipe(folder: Path) -> None:
    (folder / CARD).unlink()
    os.mkfifo(folder / CARD)


def _sparse(folder: Path) -> None:
    os.truncate(folder / CARD, 10 * 2**30)


def _crowd(folder: Path) -> None:
    for number in range(1000):
        (folder / f"records/r{number}").mkdir()


def _too_deep(folder: Path) -> None:
    (folder / "records" / "a" / "b").mkdir(parents=True)


@pytest.mark.parametrize(
    ("forge", "fragments"),
    [
        pytest.param(_symlink, ["'card.json' is a symbolic link"], id="symlink"),
        pytest.param(_folder_link, ["'records' is a symbolic link"], id="symlinked folder"),
        pytest.param(_added("setup.py"), ["setup.py is no file of a submission"], id="a script beside it"),
        pytest.param(_added(".gitattributes"), ["'.gitattributes' has an odd name"], id="hidden file"),
        pytest.param(_added("m\u043edel.safetensors"), ["\\u043e", "odd name"], id="a Cyrillic letter"),
        pytest.param(_added("card\u202enosj.exe"), ["\\u202e", "odd name"], id="right-to-left override"),
        pytest.param(_added("card.json\n"), ["odd name"], id="a line end in a name"),
        pytest.param(_added("-rf"), ["odd name"], id="an option as a name"),
        pytest.param(_pipe, ["card.json is neither a file nor a folder"], id="a pipe"),
        pytest.param(_sparse, ["card.json has 10737418240 bytes", "at most 65536"], id="ten gigabytes of nothing"),
        pytest.param(_crowd, ["more than", "files and folders"], id="a thousand folders"),
        pytest.param(_too_deep, ["records/a/b is a folder too deep"], id="nested folders"),
        pytest.param(lambda folder: (folder / MANIFEST).unlink(), ["submission.json is missing"], id="no manifest"),
    ],
)
def test_a_folder_that_is_not_only_files(
    forge: Forge, fragments: list[str], honest: Path, tmp_path: Path, check: Verify
) -> None:
    folder = copied(honest, tmp_path)
    forge(folder)
    assert refused(check(folder), "files", *fragments)


def test_a_link_to_a_submission_is_none(honest: Path, tmp_path: Path, check: Verify) -> None:
    (tmp_path / "convmixer_frozen.linked").symlink_to(honest)
    assert refused(check(tmp_path / "convmixer_frozen.linked"), "files", "is a symbolic link")


def _listed(change: Json) -> Forge:
    return lambda folder: edit_json(folder / MANIFEST, lambda manifest: manifest["files"][0].update(change))


def _manifest(edit: Callable[[Json], object]) -> Forge:
    return lambda folder: edit_json(folder / MANIFEST, edit)


def _manifest_bytes(change: Callable[[bytes], bytes]) -> Forge:
    return lambda folder: (folder / MANIFEST).write_bytes(change((folder / MANIFEST).read_bytes())) and None


@pytest.mark.parametrize(
    ("forge", "fragments"),
    [
        pytest.param(_listed({"path": "../../../etc/cron.d/x"}), ["files.0.path"], id="path escape"),
        pytest.param(_listed({"path": "/etc/passwd"}), ["files.0.path"], id="absolute path"),
        pytest.param(_listed({"path": "records/../card.json"}), ["files.0.path"], id="path escape inside"),
        pytest.param(_listed({"path": "c\u0430rd.json"}), ["files.0.path"], id="a Cyrillic letter in a path"),
        pytest.param(_listed({"size": 10**15}), ["at most 65536"], id="a petabyte"),
        pytest.param(_listed({"size": 5}), ["bytes, the manifest says 5"], id="a lie about a size"),
        pytest.param(_listed({"size": "5"}), ["files.0.size"], id="a number as text"),
        pytest.param(_manifest(lambda m: m.update(name="convmixer_frozen.d\u0131gits")), ["name"], id="dotless i"),
        pytest.param(_manifest(lambda m: m.update(name="../convmixer_frozen.x")), ["name"], id="escape in the name"),
        pytest.param(_manifest(lambda m: m.update(name="convmixer_frozen.x\n")), ["name"], id="line end in the name"),
        pytest.param(_manifest(lambda m: m.update(hook="run me")), ["hook", "Extra inputs"], id="unknown key"),
        pytest.param(_manifest(lambda m: m.update(format="mixbench.submission/9")), ["format"], id="unknown version"),
        pytest.param(_manifest(lambda m: m["files"].pop()), ["is missing from the files"], id="a file not listed"),
        pytest.param(_manifest(lambda m: m["files"].reverse()), ["not in order"], id="another order"),
        pytest.param(_manifest(lambda m: m.update(factory="build")), ["contradict"], id="code that is not there"),
        pytest.param(_manifest_bytes(lambda _: b"[" * 200_000), ["deeper than 12"], id="200,000 brackets"),
        pytest.param(_manifest_bytes(lambda _: b"\xff\xfe{}"), ["is not JSON"], id="no UTF-8"),
        pytest.param(_manifest_bytes(lambda c: c[:-40]), ["is not JSON"], id="truncated"),
        pytest.param(
            _manifest_bytes(lambda c: c.replace(b'"name"', b'"name": "a.b",\n"name"', 1)), ["one name twice"], id="two"
        ),
        pytest.param(_manifest_bytes(lambda c: c + b" " * 300_000), ["at most"], id="padding"),
        pytest.param(lambda folder: (folder / WEIGHTS).unlink(), ["model.safetensors is missing"], id="no weights"),
    ],
)
def test_a_manifest_that_lies(forge: Forge, fragments: list[str], honest: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(honest, tmp_path)
    forge(folder)
    report = check(folder)
    if fragments == ["at most"]:
        assert refused(report, "files", *fragments)
    else:
        assert refused(report, "manifest", *fragments)


@pytest.mark.parametrize("name", [CARD, CONFIG, WEIGHTS, "environment.json"])
def test_a_file_changed_after_packing(name: str, honest: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(honest, tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    assert refused(check(folder), "hashes", f"{name} has SHA-256")


@pytest.mark.parametrize(
    ("edit", "fragments"),
    [
        pytest.param(lambda c: c.pop("extra_data"), ["extra_data", "required"], id="a field missing"),
        pytest.param(lambda c: c.update(authors=[]), ["authors"], id="nobody"),
        pytest.param(lambda c: c.update(authors=["  "]), ["authors.0", "empty"], id="blank"),
        pytest.param(lambda c: c.update(authors=["A\u202eB"]), ["U+202E"], id="right-to-left override"),
        pytest.param(lambda c: c.update(licence="M\u200bIT"), ["U+200B"], id="zero-width space"),
        pytest.param(lambda c: c.update(recipe="\x1b]0;owned\x07"), ["U+001B"], id="terminal escape"),
        pytest.param(lambda c: c.update(recipe="x" * 501), ["at most 500"], id="a novel"),
        pytest.param(lambda c: c.update(recipe=7), ["recipe", "string"], id="a number"),
        pytest.param(lambda c: c.update(reference="javascript:alert(1)"), ["https://"], id="a script as address"),
        pytest.param(lambda c: c.update(reference='https://a.b/"><script>'), ["https://"], id="a script in an address"),
        pytest.param(lambda c: c.update(note="hi"), ["note", "Extra inputs"], id="unknown key"),
    ],
)
def test_a_card_that_is_none(
    edit: Callable[[Json], object], fragments: list[str], honest: Path, tmp_path: Path, check: Verify
) -> None:
    folder = copied(honest, tmp_path)
    edited(CARD, edit)(folder)
    assert refused(check(folder), "card", *fragments)


@pytest.mark.parametrize(
    ("edit", "fragments"),
    [
        pytest.param(lambda c: c["model_args"].update(dim=10**9), ["dim", "4096"], id="a giant network"),
        pytest.param(lambda c: c["mixbench"].update(recipe="a\u202eb"), ["recipe", "U+202E"], id="unseen characters"),
        pytest.param(
            lambda c: c["mixbench"].update(command="x" * 1001), ["command in config.json has 1001"], id="a novel"
        ),
        pytest.param(lambda c: c["model_args"].update(depth=-1), ["depth"], id="a negative depth"),
        pytest.param(lambda c: c["model_args"].update(act_layer="os.system"), ["act_layer"], id="another argument"),
        pytest.param(lambda c: c["model_args"].update(dim="48"), ["dim"], id="a number as text"),
        pytest.param(lambda c: c.update(architecture="resnet50"), ["resnet50"], id="another architecture"),
        pytest.param(
            lambda c: c["pretrained_cfg"].update(file="/tmp/other"),  # noqa: S108 - nothing is written there
            ["not what mixbench writes"],
            id="weights elsewhere",
        ),
        pytest.param(
            lambda c: c["pretrained_cfg"].update(first_conv="blocks.0"), ["not what mixbench writes"], id="a false stem"
        ),
    ],
)
def test_a_config_that_says_more_or_less(
    edit: Callable[[Json], object], fragments: list[str], honest: Path, tmp_path: Path, check: Verify
) -> None:
    folder = copied(honest, tmp_path)
    edited(CONFIG, edit)(folder)
    assert refused(check(folder), "config", *fragments)


@pytest.mark.parametrize(
    ("forge", "fragments"),
    [
        pytest.param(edited_record(lambda r: r["robust"].update(correct=40)), ["robust ones"], id="a better count"),
        pytest.param(edited_record(lambda r: r["attack"].update(name="autoattack")), ["protocol.hash"], id="attack"),
        pytest.param(edited_record(lambda r: r["threat_model"].update(eps="1/5")), ["protocol.hash"], id="eps"),
        pytest.param(edited_record(lambda r: r.update(stars=5)), ["stars", "Extra inputs"], id="unknown key"),
        pytest.param(edited_record(lambda r: r.update(format="mixbench.evaluation/2")), ["format"], id="a version"),
        pytest.param(edited_record(lambda r: r.update(adversarials_sha256=None)), ["no adversarial"], id="no proof"),
        pytest.param(edited_record(lambda r: r["clean"].update(correct=float("nan"))), ["NaN"], id="NaN"),
        pytest.param(sealed_record(lambda r: r["dataset"].update(name="digits2")), ["'digits2'"], id="unknown data"),
        pytest.param(
            sealed_record(lambda r: r["provenance"].update(device="c\u202eup")), ["U+202E"], id="unseen characters"
        ),
        pytest.param(sealed_record(lambda r: r["model"].update(name="convmixer_frozen.x")), ["of"], id="model name"),
    ],
)
def test_a_record_that_was_edited(
    forge: Forge, fragments: list[str], honest: Path, tmp_path: Path, check: Verify
) -> None:
    folder = copied(honest, tmp_path)
    forge(folder)
    assert refused(check(folder), "records", *fragments)


def _million_rows(content: bytes) -> bytes:
    table = pq.read_table(pa.BufferReader(content)).slice(0, 1)
    indices = pa.array(np.zeros(10**6, dtype=np.int64))
    buffer = io.BytesIO()
    pq.write_table(table.take(indices), buffer, compression="zstd")
    return buffer.getvalue()


def _other_columns(content: bytes) -> bytes:
    table = pq.read_table(pa.BufferReader(content)).rename_columns([f"{name}_" for name in _SCHEMA.names])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _own_metadata(content: bytes) -> bytes:
    table = pq.read_table(pa.BufferReader(content))
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"pandas": '{"index_columns": ["label"]}'}), buffer)
    return buffer.getvalue()


def _other_types(content: bytes) -> bytes:
    table = pq.read_table(pa.BufferReader(content))
    table = table.set_column(0, "index", table["index"].cast(pa.float64()))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _bomb(_: bytes) -> bytes:
    return lzma.compress(bytes(300 * 2**20), preset=0)


def _zip(_: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("adversarials.safetensors", bytes(2**20))
    return buffer.getvalue()


def _giant_images(_: bytes) -> bytes:
    entry = {"dtype": "F32", "shape": [10**6, 1, 8, 8], "data_offsets": [0, 256 * 10**6]}
    return lzma.compress(safetensors_header({"images": entry}))


@pytest.mark.parametrize(
    ("forge", "fragments"),
    [
        pytest.param(replaced(EXAMPLES, lambda c: c[: len(c) // 2]), ["truncated"], id="truncated parquet"),
        pytest.param(
            replaced(EXAMPLES, lambda c: b"PAR1" + c[4:-8] + b"\xff\xff\xff\x7fPAR1"), ["footer"], id="footer"
        ),
        pytest.param(replaced(EXAMPLES, lambda c: c[:200] + bytes(60) + c[260:]), [""], id="a hole in it"),
        pytest.param(replaced(EXAMPLES, _million_rows), ["has 1000000 rows", "counts 48"], id="a million rows"),
        pytest.param(replaced(EXAMPLES, _other_columns), ["other columns"], id="other columns"),
        pytest.param(replaced(EXAMPLES, _own_metadata), ["metadata"], id="orders to pandas"),
        pytest.param(replaced(EXAMPLES, _other_types), ["not the file"], id="other types"),
        pytest.param(replaced(ADVERSARIALS, _bomb), ["unpacks to more than"], id="a decompression bomb"),
        pytest.param(replaced(ADVERSARIALS, lambda c: c[:-30]), ["xz"], id="truncated xz"),
        pytest.param(replaced(ADVERSARIALS, lambda c: c + c), ["goes on after its end"], id="a second stream"),
        pytest.param(replaced(ADVERSARIALS, _zip), ["is not an xz file"], id="a zip archive"),
        pytest.param(replaced(ADVERSARIALS, _giant_images), ["is not the file"], id="giant images"),
        pytest.param(replaced(ADVERSARIALS, lambda _: lzma.compress(b"")), ["is not the file"], id="empty images"),
        pytest.param(sealed_record(lambda r: r["cost"].update(forwards=1)), ["cost.forwards"], id="another cost"),
    ],
)
def test_evidence_that_is_not_what_the_record_says(
    forge: Forge, fragments: list[str], honest: Path, tmp_path: Path, check: Verify
) -> None:
    folder = copied(honest, tmp_path)
    forge(folder)
    assert refused(check(folder), "examples", *fragments)


def _images_file(content: bytes) -> Forge:
    """The adversarial images replaced by any bytes, with a record that names their hash."""

    def forge(folder: Path) -> None:
        (record_folder(folder) / ADVERSARIALS).write_bytes(lzma.compress(content))
        sealed_record(lambda _: None)(folder)

    return forge


@pytest.mark.parametrize(
    ("forge", "fragments"),
    [
        pytest.param(_images_file(pickled({"images": torch.zeros(1)})), ["not a safetensors file"], id="pickle"),
        pytest.param(
            _images_file(
                safetensors_header({"images": {"dtype": "F32", "shape": [9**9], "data_offsets": [0, 4 * 9**9]}})
            ),
            ["not a sound safetensors file"],
            id="a header that lies",
        ),
        pytest.param(_images_file(save({"images": torch.zeros(39, 1, 8, 8)})), ["expected images"], id="no index"),
        pytest.param(
            _images_file(save({"images": torch.zeros(39, 1, 8, 8), "index": torch.arange(39)})),
            ["other examples"],
            id="of other examples",
        ),
        pytest.param(
            _images_file(
                save({"images": torch.zeros(39, 1, 8, 8, dtype=torch.float64), "index": torch.arange(39)})[:9000]
            ),
            ["not a sound safetensors file"],
            id="cut short",
        ),
    ],
)
def test_adversarial_images_of_another_shape(
    forge: Forge, fragments: list[str], honest: Path, tmp_path: Path, check: Verify
) -> None:
    folder = copied(honest, tmp_path)
    forge(folder)
    assert refused(check(folder), "examples", *fragments)


def _swap_labels(table: pd.DataFrame) -> None:
    survivors = np.flatnonzero(~table["broken"] & (table["label"] == table["clean_prediction"]))
    first, second = survivors[0], next(p for p in survivors if table["label"][p] != table["label"][survivors[0]])
    for name in ("label", "clean_prediction"):
        table.loc[[first, second], name] = table.loc[[second, first], name].to_numpy()


@pytest.mark.parametrize(
    ("forge", "refusal"),
    [
        pytest.param(
            sealed_record(lambda r: r["dataset"].update(fingerprint="0" * 64)), ("dataset", "0000"), id="other pixels"
        ),
        pytest.param(sealed_record(lambda r: r["dataset"].update(split="train")), ("dataset", "'train'"), id="split"),
        pytest.param(
            sealed_record(lambda r: r["dataset"].update(subset="easy")), ("dataset", "'easy'"), id="an easy subset"
        ),
        pytest.param(
            sealed_record(lambda r: r["dataset"].update(subset="balanced-48-seed-1")),
            ("dataset", "fingerprint"),
            id="another choice",
        ),
        pytest.param(
            sealed_record(lambda r: r["dataset"].update(subset="balanced-9999999-seed-1")),
            ("dataset", "more examples than there are"),
            id="more than there are",
        ),
        pytest.param(edited_table(_swap_labels), ("labels", "label is not that of digits in 2"), id="swapped labels"),
        pytest.param(
            sealed_record(lambda r: r["attack"].update(name="gentle")), ("protocol", "gentle"), id="unknown attack"
        ),
        pytest.param(
            sealed_record(lambda r: r["attack"].update(name="fgsm")), ("protocol", "fgsm"), id="a parameter too many"
        ),
        pytest.param(
            sealed_record(lambda r: r["attack"]["parameters"].update(steps="1000000000")),
            ("protocol", "over 10000"),
            id="a billion steps",
        ),
        pytest.param(
            sealed_record(lambda r: r["attack"]["parameters"].update(steps="\u0662\u0660")),
            ("protocol", "\\u0662"),
            id="digits of another script",
        ),
        pytest.param(
            sealed_record(lambda r: r["attack"]["parameters"].update(steps="40")),
            ("protocol", "under 40 forwards"),
            id="half the steps it claims",
        ),
    ],
)
def test_another_protocol_than_it_says(
    forge: Forge, refusal: tuple[str, ...], honest: Path, tmp_path: Path, check: Verify
) -> None:
    folder = copied(honest, tmp_path)
    forge(folder)
    assert refused(check(folder), *refusal)


def _without(name: str) -> Callable[[bytes], bytes]:
    return lambda content: save({key: value for key, value in load(content).items() if key != name})


def _wider(content: bytes) -> bytes:
    return save({key: value.double() if value.is_floating_point() else value for key, value in load(content).items()})


def _lying(content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["head.bias"]["shape"] = [10**9]
    return safetensors_header(header, content[8 + length :])


def _long_header(content: bytes) -> bytes:
    return (2**40).to_bytes(8, "little") + content[8:]


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        pytest.param(lambda c: pickled(load(c)), ["pickles are never read"], id="a pickle"),
        pytest.param(lambda _: b"\x80\x04cposix\nsystem\n.", ["pickles are never read"], id="a pickle with a call"),
        pytest.param(lambda _: b"<!DOCTYPE html><html>", ["not a safetensors file"], id="a web page"),
        pytest.param(lambda _: b"", ["not a safetensors file"], id="nothing"),
        pytest.param(_lying, ["not a sound safetensors file"], id="a header that lies about sizes"),
        pytest.param(_long_header, ["not a safetensors file"], id="a header of a terabyte"),
        pytest.param(lambda c: c[:-100], ["not a sound safetensors file"], id="truncated"),
        pytest.param(lambda c: save({**load(c), "extra": torch.zeros(2**20)}), ["extra"], id="a tensor too many"),
        pytest.param(_without("head.bias"), ["none where the network has head.bias"], id="a tensor too few"),
        pytest.param(lambda c: save({**load(c), "head.bias": torch.zeros(11)}), ["(F32, 11)"], id="another shape"),
        pytest.param(_wider, ["F64"], id="another type"),
    ],
)
def test_weights_that_are_none(
    change: Callable[[bytes], bytes], fragments: list[str], honest: Path, tmp_path: Path, check: Verify
) -> None:
    folder = copied(honest, tmp_path)
    replaced(WEIGHTS, change)(folder)
    assert refused(check(folder), "weights", *fragments)


def _diverged(folder: Path) -> None:
    tensors = load((folder / WEIGHTS).read_bytes())
    tensors["head.weight"][0, 0] = torch.nan
    replaced(WEIGHTS, save(tensors))(folder)


def test_weights_that_are_not_numbers(honest: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(honest, tmp_path)
    _diverged(folder)
    assert refused(check(folder), "build", "head.weight", "not finite")


def test_a_network_that_is_not_frozen_though_it_says_so(honest: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(honest, tmp_path)
    edited_weights(lambda tensors: tensors["blocks.0.0.fn.0.weight"][0, 0].mul_(1.5))(folder)
    report = check(folder)
    failed = [row for row in report.checks if row.status is Status.FAIL]
    assert failed[0].check == "frozen"
    assert "blocks.0.0.fn.0.weight is not frozen: 9 of 432 values differ" in failed[0].reason


@pytest.mark.parametrize(
    ("forge", "refusal"),
    [
        pytest.param(
            edited(CONFIG, lambda c: c["mixbench"].update(sha256="0" * 64)), ("checkpoint", "SHA-256"), id="hash"
        ),
        pytest.param(
            edited(CONFIG, lambda c: c["mixbench"].update(mixing="trained")),
            ("checkpoint", "says mixing 'trained', but its architecture is convmixer_frozen"),
            id="mixing",
        ),
        pytest.param(
            edited(CONFIG, lambda c: c["mixbench"]["logits"][0].__setitem__(0, 99.0)),
            ("checkpoint", "other logits"),
            id="logits",
        ),
        pytest.param(
            edited(CONFIG, lambda c: c["mixbench"]["parameters"].update(trained=1)),
            ("checkpoint", "the card counts"),
            id="parameter counts",
        ),
        pytest.param(
            sealed_record(lambda r: r["model"].update(sha256="0" * 64)), ("identity", "0000"), id="a stronger model's"
        ),
        pytest.param(
            sealed_record(lambda r: r["model"]["parameters"].update(trained=5)), ("identity", "trained=5"), id="size"
        ),
    ],
)
def test_a_checkpoint_that_is_another(
    forge: Forge, refusal: tuple[str, ...], honest: Path, tmp_path: Path, check: Verify
) -> None:
    folder = copied(honest, tmp_path)
    forge(folder)
    report = check(folder)
    failed = [row for row in report.checks if row.status is Status.FAIL]
    assert failed[0].check == refusal[0]
    assert [fragment for fragment in refusal[1:] if fragment not in failed[0].reason] == []


def _brighter(images: np.ndarray) -> None:
    images[0, 0, 0, 0] = 1.5


def _not_finite(images: np.ndarray) -> None:
    images[0, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("forge", "fragments"),
    [
        pytest.param(edited_images(_brighter), ["1 of 39", "outside [0, 1]"], id="out of the box"),
        pytest.param(edited_images(_not_finite), ["1 of 39", "not finite"], id="not a number"),
    ],
)
def test_adversarial_images_that_are_no_images(
    forge: Forge, fragments: list[str], honest: Path, tmp_path: Path, check: Verify
) -> None:
    folder = copied(honest, tmp_path)
    forge(folder)
    assert refused(check(folder), "adversarials", *fragments)


def _clean_images(folder: Path) -> np.ndarray:
    examples = load_examples("digits", data_dir=None, cache_dir=folder, n_examples=48, seed=0)
    return np.asarray(examples.images)[np.asarray(read_table(folder)["broken"], dtype=bool)].astype(np.float32) / 255


def test_adversarial_images_further_away_than_claimed(honest: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(honest, tmp_path)
    clean = _clean_images(folder)
    edited_images(lambda images: images.__setitem__(slice(None), (clean + 2 * (images - clean)).clip(0, 1)))(folder)
    assert refused(check(folder), "adversarials", "further than eps", "up to 0.2", "39 of 39")


def test_adversarial_images_nearer_than_their_row_says(honest: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(honest, tmp_path)
    clean = _clean_images(folder)
    edited_images(lambda images: images.__setitem__(slice(None), clean + 0.5 * (images - clean)))(folder)
    assert refused(check(folder), "adversarials", "another norm than their row says")


def test_adversarial_images_that_fool_nobody(honest: Path, tmp_path: Path, check: Verify) -> None:
    """Breaks that are none would make another model look weak, or hide how an attack was run."""
    folder = copied(honest, tmp_path)
    clean = _clean_images(folder)
    edited_images(lambda images: images.__setitem__(slice(None), clean))(folder)
    edited_table(lambda table: table.__setitem__("norm", table["norm"] * 0))(folder)
    assert refused(check(folder), "adversarials", "39 of 39", "classified correctly, so they break nothing")


def test_a_better_clean_accuracy_than_the_network_has(honest: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(honest, tmp_path)

    def improve(table: pd.DataFrame) -> None:
        wrong = table["label"] != table["clean_prediction"]
        assert wrong.sum() == 1
        table["clean_prediction"] = table["label"]
        table.loc[wrong, "margin"] = 5.0
        for name in ("forwards", "backwards"):
            table.loc[wrong, name] = table[name].max()

    edited_table(improve)(folder)
    assert refused(check(folder), "clean accuracy", "1 predictions and 1 margins of 48")


def test_a_better_clean_accuracy_on_the_card(honest_fgsm: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(honest_fgsm, tmp_path)
    edited(CONFIG, lambda config: config["mixbench"]["clean"].update(correct=359))(folder)
    assert refused(check(folder), "clean accuracy", "351 of 360 correct here", "359 on the card")


def test_margins_of_another_network(honest: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(honest, tmp_path)
    edited_table(lambda table: table.__setitem__("margin", table["margin"] * 1.1))(folder)
    assert refused(check(folder), "clean accuracy", "0 predictions and")


def test_a_saturated_network_whose_gradients_vanish(honest: Path, tmp_path: Path, check: Verify) -> None:
    """The head scaled up predicts the same and gives an honest PGD run nothing to follow."""
    folder = copied(honest, tmp_path)

    def saturate(tensors: dict[str, torch.Tensor]) -> None:
        tensors["head.weight"] *= 1e5
        tensors["head.bias"] *= 1e5

    edited_weights(saturate)(folder)
    model, table = network(folder), read_table(folder)
    images = torch.from_numpy(_digits(folder)).float() / 255
    labels = torch.from_numpy(table["label"].to_numpy(np.int64))
    verdicts = judge(model, images, labels, micro_batch=100)
    table["margin"] = verdicts.margins.numpy()
    write_table(folder, table)
    report = check(folder)
    failed = [row for row in report.checks if row.status is Status.FAIL]
    assert failed[0].check == "gradients"
    assert "the gradient of the cross-entropy is zero or not finite for" in failed[0].reason


def _digits(folder: Path) -> np.ndarray:
    return np.array(load_examples("digits", data_dir=None, cache_dir=folder, n_examples=48, seed=0).images)


def test_html_in_a_card_is_text(honest: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(honest, tmp_path)
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)> [x](https://evil.example) |`@everyone`"
    edited(CARD, lambda card: card.update(licence=evil, authors=[evil]))(folder)
    report = check(folder, survivors=1)
    (row,) = (row for row in report.checks if row.check == "card")
    assert (report.passed, row.status) == (True, Status.WARN)
    assert "shown" in row.reason or "text" in row.reason


def test_names_in_a_summary_are_text(honest: Path, tmp_path: Path, check: Verify) -> None:
    folder = copied(honest, tmp_path)
    edited_record(lambda record: record.update({"<script>alert(1)</script>|[x](https://e.example)@all": 1}))(folder)
    summary = check(folder).to_markdown()
    assert "&lt;script&gt;alert&#40;1&#41;" in summary
    for harmful in ("<script", "](", "@all", "https://"):
        assert harmful not in summary


def test_reseal_alone_makes_no_difference(honest: Path, tmp_path: Path, check: Verify) -> None:
    """The forgeries above fail for what they forge, not for how they are sealed."""
    folder = copied(honest, tmp_path)
    edited_images(lambda _: None)(folder)
    edited_table(lambda _: None)(folder)
    reseal(folder)
    assert check(folder, survivors=1).passed
