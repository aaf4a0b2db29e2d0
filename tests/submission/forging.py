"""What a dishonest submitter would do: edit a submission and make every hash fit again."""

import hashlib
import io
import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load, save
from torch import Tensor

from mixbench.models import ModelSpec, logits_fingerprint, read_config
from mixbench.models.weights import load_into
from mixbench.records import AttackIdentity, DatasetIdentity, EvaluationRecord, ThreatModelField, protocol_hash
from mixbench.store import encode_examples
from mixbench.submission import ListedFile, Manifest

Json = dict[str, Any]
Forge = Callable[[Path], None]
WEIGHTS, CONFIG, CARD, MANIFEST = "model.safetensors", "config.json", "card.json", "submission.json"
RECORD, EXAMPLES, ADVERSARIALS = "record.json", "examples.parquet", "adversarials.safetensors.xz"


def reseal(folder: Path, **changes: Any) -> None:
    """Write a manifest of the files that are there, valid or not."""
    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    listed = [
        ListedFile.model_construct(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path in paths
        if path != MANIFEST
        for content in [(folder / path).read_bytes()]
    ]
    old = json.loads((folder / MANIFEST).read_text())
    values = {**old, "files": tuple(listed), **changes}
    (folder / MANIFEST).write_bytes(Manifest.model_construct(**values).to_bytes())


def edit_json(path: Path, edit: Callable[[Json], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content, indent=2))


def edited(name: str, edit: Callable[[Json], object]) -> Forge:
    """Edit a JSON file and seal the submission again."""

    def forge(folder: Path) -> None:
        edit_json(folder / name, edit)
        reseal(folder)

    return forge


def replaced(name: str, content: bytes | Callable[[bytes], bytes]) -> Forge:
    """Put other bytes in the place of a file and seal the submission again."""

    def forge(folder: Path) -> None:
        path = folder / name if (folder / name).exists() else record_folder(folder) / name
        path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))
        reseal(folder)

    return forge


def record_folder(folder: Path) -> Path:
    (found,) = (folder / "records").iterdir()
    return found


def edited_record(edit: Callable[[Json], object]) -> Forge:
    """Edit the record alone, under its old folder name."""

    def forge(folder: Path) -> None:
        edit_json(record_folder(folder) / RECORD, edit)
        reseal(folder)

    return forge


def seal_record(folder: Path, content: Json) -> None:
    """Write a record whose protocol hash, file hashes and folder name fit what it says now."""
    place = record_folder(folder)
    content["protocol"]["hash"] = protocol_hash(
        dataset=DatasetIdentity(**content["dataset"]),
        attack=AttackIdentity(**content["attack"]),
        threat_model=ThreatModelField(**content["threat_model"]),
        block_size=content["protocol"]["block_size"],
        seed=content["protocol"]["seed"],
        eps_grid=tuple(map(_fraction, content["protocol"]["eps_grid"])),
    )
    content["examples_sha256"] = hashlib.sha256((place / EXAMPLES).read_bytes()).hexdigest()
    content["adversarials_sha256"] = hashlib.sha256(lzma.decompress((place / ADVERSARIALS).read_bytes())).hexdigest()
    text = json.dumps(content, indent=2)
    (place / RECORD).write_text(text)
    place.rename(place.with_name(EvaluationRecord.from_json(text).id))
    reseal(folder)


def _fraction(eps: str) -> Any:
    return ThreatModelField(norm="Linf", eps=eps).eps


def sealed_record(edit: Callable[[Json], object]) -> Forge:
    """Edit the record and make every hash fit."""

    def forge(folder: Path) -> None:
        content = json.loads((record_folder(folder) / RECORD).read_text())
        edit(content)
        seal_record(folder, content)

    return forge


def read_table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(record_folder(folder) / EXAMPLES, dtype_backend="numpy_nullable")


def write_table(folder: Path, table: pd.DataFrame) -> None:
    """Write the table, and a record that counts what it says."""
    columns = {name: np.array([None if pd.isna(v) else v for v in table[name]], dtype=object) for name in table}
    place = record_folder(folder)
    (place / EXAMPLES).write_bytes(encode_examples(columns))
    content = json.loads((place / RECORD).read_text())
    clean = table["label"] == table["clean_prediction"]
    content["clean"]["correct"] = int(clean.sum())
    content["robust"]["correct"] = int((clean & ~table["broken"]).sum())
    content["broken_by"] = {name: int((table["broken_by"] == name).sum()) for name in content["broken_by"]}
    content["cost"] |= {name: int(table[name].sum()) for name in ("forwards", "backwards")}
    seal_record(folder, content)


def edited_table(edit: Callable[[pd.DataFrame], object]) -> Forge:
    """Edit the per-example table and make every count and hash fit."""

    def forge(folder: Path) -> None:
        table = read_table(folder)
        edit(table)
        write_table(folder, table)

    return forge


def read_images(folder: Path) -> dict[str, np.ndarray]:
    return dict(load_arrays(lzma.decompress((record_folder(folder) / ADVERSARIALS).read_bytes())))


def write_images(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    path = record_folder(folder) / ADVERSARIALS
    path.write_bytes(lzma.compress(save_arrays({name: np.ascontiguousarray(a) for name, a in arrays.items()})))


def edited_images(edit: Callable[[np.ndarray], object]) -> Forge:
    """Edit the adversarial images and make every hash fit."""

    def forge(folder: Path) -> None:
        arrays = {name: array.copy() for name, array in read_images(folder).items()}
        edit(arrays["images"])
        write_images(folder, arrays)
        seal_record(folder, json.loads((record_folder(folder) / RECORD).read_text()))

    return forge


def hide_breaks(folder: Path, positions: np.ndarray) -> None:
    """Turn broken examples into survivors: in table, adversarial images, counts and hashes."""
    table, arrays = read_table(folder), read_images(folder)
    kept = ~np.isin(np.flatnonzero(table["broken"]), positions)
    spent = table.loc[~table["broken"] & (table["label"] == table["clean_prediction"]), ["forwards", "backwards"]].max()
    table.loc[positions, "broken"] = False
    table.loc[positions, ["broken_by", "eps", "adversarial_prediction", "adversarial_margin", "norm"]] = pd.NA
    for name in ("forwards", "backwards"):
        table.loc[positions, name] = int(spent[name])
    write_images(folder, {name: array[kept] for name, array in arrays.items()})
    write_table(folder, table)


def seal_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write other weights, with a card that has their hash and logits, and a record that says it is of them."""
    content = save(tensors, metadata={"format": "pt"})
    (folder / WEIGHTS).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    spec, card = read_config(folder)
    model = spec.build().eval()
    model.load_state_dict(tensors)
    logits = logits_fingerprint(model, card.image_size)
    edit_json(folder / CONFIG, lambda config: config["mixbench"].update(sha256=digest, logits=logits))
    sealed_record(lambda record: record["model"].update(sha256=digest))(folder)


def edited_weights(edit: Callable[[dict[str, Tensor]], object]) -> Forge:
    def forge(folder: Path) -> None:
        tensors = load((folder / WEIGHTS).read_bytes())
        edit(tensors)
        seal_weights(folder, tensors)

    return forge


def network(folder: Path) -> torch.nn.Module:
    """The network of a submission of a registered architecture."""
    spec, _ = read_config(folder)
    assert isinstance(spec, ModelSpec)
    model = spec.build().eval()
    load_into(model, load((folder / WEIGHTS).read_bytes()), source=WEIGHTS)
    return model


def copied(honest: Path, into: Path) -> Path:
    """A copy of a submission to work on, under its own name."""
    return Path(shutil.copytree(honest, into / honest.name))


def safetensors_header(header: Json, data: bytes = b"") -> bytes:
    """A safetensors file with any header in front of any data."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
