"""The verbs that list what there is: models, attacks, datasets and formats."""

import json
import re
from pathlib import Path

import pytest
import timm

from mixbench.attacks import CATALOGUE as ATTACKS
from mixbench.datasets import CATALOGUE as DATASETS
from mixbench.models import ARCHITECTURES, read_config, zoo_folder, zoo_names
from mixbench.probe_record import ProbeRecord
from mixbench.records import EvaluationRecord
from tests.cli.conftest import Run


def first_cells(table: str) -> list[str]:
    """The first cell of each line of the body of a printed table, where it is not a continuation."""
    cells = [re.split("[│|]", line)[1].strip() for line in table.splitlines() if re.match("[│|]", line)]
    return [cell for cell in cells if cell]


def test_models_lists_the_whole_zoo(mixbench: Run) -> None:
    outcome = mixbench("models")
    assert (outcome.code, outcome.err) == (0, "")
    assert first_cells(outcome.out) == list(zoo_names())
    card = read_config(zoo_folder() / "convmixer_frozen.digits")[1]
    (line,) = [line for line in outcome.out.splitlines() if " convmixer_frozen.digits " in line]
    for cell in ("frozen", "standard", "digits", f"{card.clean.rate * 100:.2f} [", str(card.parameters.trained)):
        assert f" {cell}" in line
    assert all(name in outcome.out.splitlines()[-2] for name in ARCHITECTURES)


def test_models_as_json_are_the_cards(mixbench: Run) -> None:
    content = json.loads(mixbench("models", "--json").out)
    assert content == {
        name: json.loads((zoo_folder() / name / "config.json").read_text())["mixbench"] for name in zoo_names()
    }


@pytest.mark.parametrize("name", ["convmixer_trained", "convmixer_frozen.digits", "convmixer_spatial"])
def test_the_parts_of_a_model_sum_to_the_whole(name: str, mixbench: Run) -> None:
    content = json.loads(mixbench("models", name, "--json").out)
    model = timm.create_model(name if "." in name else f"{name}.digits", pretrained=True)
    counts = [parameter.numel() for parameter in model.parameters()]
    learning = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert sum(group["parameters"] for group in content["groups"]) == sum(counts)
    assert sum(group["trained"] for group in content["groups"]) == sum(learning)
    assert content["model"]["parameters"] == {"trained": sum(learning), "frozen": sum(counts) - sum(learning)}
    frozen = {group["group"] for group in content["groups"] if group["frozen"]}
    assert (
        frozen
        == {"convmixer_trained": set(), "convmixer_frozen": {"spatial"}, "convmixer_spatial": {"channel"}}[
            name.partition(".")[0]
        ]
    )


def test_one_model_as_a_table_ends_with_the_sum(mixbench: Run) -> None:
    outcome = mixbench("models", "convmixer_frozen")
    lines = [re.split("[│|]", line)[1:5] for line in outcome.out.splitlines() if re.match("[│|]", line)]
    *groups, (name, *total) = [[cell.strip() for cell in line] for line in lines]
    assert name == "all"
    assert [int(cell) for cell in total] == [sum(int(group[column]) for group in groups) for column in (1, 2, 3)]


def test_a_factory_can_be_looked_at(mixbench: Run) -> None:
    outcome = mixbench("models", "tests.cli.factories:photos", "--json")
    assert json.loads(outcome.out)["model"]["parameters"] == {"trained": 30730, "frozen": 0}


@pytest.mark.usefixtures("here")
def test_an_unknown_model_is_refused(mixbench: Run) -> None:
    assert mixbench("models", "convmixer_frzen").refuses("unknown model", "did you mean 'convmixer_frozen.digits'")


def test_attacks_lists_all_with_their_norms(mixbench: Run) -> None:
    assert first_cells(mixbench("attacks").out) == list(ATTACKS)
    content = {row["name"]: row for row in json.loads(mixbench("attacks", "--json").out)}
    assert content["pgd"]["norms"] == ["Linf", "L2"]
    assert content["autoattack"]["norms"] == ["Linf", "L2", "L1"]
    assert content["autoattack"]["stages"] == ["apgd-ce", "apgd-t", "fab-t", "square"]


def test_datasets_lists_all_with_sizes_and_threat_models(mixbench: Run) -> None:
    outcome = mixbench("datasets")
    assert first_cells(outcome.out) == list(DATASETS)
    assert "parquet:FOLDER" in outcome.out
    rows = {row["name"]: row for row in json.loads(mixbench("datasets", "--json").out)}
    assert list(rows) == list(DATASETS)
    assert rows["digits"] | {"source": ""} == {
        "name": "digits",
        "image size": "1x8x8",
        "classes": "10",
        "examples": "train 1437, test 360",
        "subsets": "-",
        "default threat model": "Linf 1/10",
        "source": "",
    }


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [(["schema"], EvaluationRecord), (["schema", "record"], EvaluationRecord), (["schema", "probe"], ProbeRecord)],
)
def test_the_schema_of_a_record_is_json_and_names_every_field(
    arguments: list[str], kind: type[EvaluationRecord] | type[ProbeRecord], mixbench: Run
) -> None:
    outcome = mixbench(*arguments)
    schema = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (0, "")
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["type"], schema["additionalProperties"]) == ("object", False)
    assert set(schema["properties"]) == set(kind.model_fields)


def test_nothing_is_written_by_looking(here: Path, mixbench: Run) -> None:
    for arguments in (["models"], ["models", "convmixer_frozen"], ["attacks"], ["datasets"], ["schema"], ["--version"]):
        assert mixbench(*arguments).code == 0
    assert list(here.rglob("*")) == []
