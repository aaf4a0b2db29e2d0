from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixbench.errors import InvalidInputError
from mixbench.gate import EvaluationEntry, GateConfig, read_config
from tests.conftest import ROOT

_LEAST = """
baseline = "baselines"
[[evaluations]]
models = ["convmixer_frozen"]
attack = "fgsm"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mixbench.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_least_configuration_takes_the_defaults_of_the_command_line(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, _LEAST))
    entry = EvaluationEntry(models=("convmixer_frozen",), attack="fgsm")
    assert config == GateConfig(baseline=tmp_path / "baselines", evaluations=(entry,), margin=1.0, alpha=0.05)
    assert (entry.split, entry.seed, entry.block_size, entry.margin) == ("test", 0, 1000, None)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, _LEAST + 'checkpoint = "weights/a.safetensors"\n'))
    assert config.evaluations[0].checkpoint == tmp_path / "weights" / "a.safetensors"
    assert read_config(written(tmp_path, _LEAST.replace("baselines", "/at/root"))).baseline == Path("/at/root")


def test_a_whole_number_is_a_margin(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, "margin = 2\n" + _LEAST)).margin == 2.0


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        pytest.param("baseline = ", ["is not TOML"], id="no TOML"),
        pytest.param("", ["key baseline is missing", "the folder of the baseline records"], id="empty"),
        pytest.param('baseline = "b"\n', ["key evaluations is missing", "[[evaluations]]"], id="no evaluation"),
        pytest.param('baseline = "b"\nevaluations = []\n', ["key evaluations is []", "at least 1"], id="none of them"),
        pytest.param("magrin = 1\n" + _LEAST, ["key magrin is unknown", "did you mean 'margin'?"], id="misspelt"),
        pytest.param(
            _LEAST + "step = 5\n", ["key evaluations[0].step is unknown", "did you mean 'steps'?"], id="misspelt inside"
        ),
        pytest.param(
            _LEAST.replace('attack = "fgsm"', ""), ["key evaluations[0].attack is missing", "'pgd'"], id="no attack"
        ),
        pytest.param(
            _LEAST.replace('["convmixer_frozen"]', '"convmixer_frozen"'),
            ["key evaluations[0].models is 'convmixer_frozen'", "array"],
            id="no list",
        ),
        pytest.param(
            _LEAST + 'steps = "20"\n', ["key evaluations[0].steps is '20'", "integer"], id="text for a number"
        ),
        pytest.param(_LEAST + "steps = 20.5\n", ["key evaluations[0].steps is 20.5", "integer"], id="no whole number"),
        pytest.param(
            "margin = -1\n" + _LEAST, ["key margin is -1", "greater than or equal to 0"], id="negative margin"
        ),
        pytest.param("margin = nan\n" + _LEAST, ["mixbench.toml", "margin"], id="margin no number"),
        pytest.param("alpha = 0.5\n" + _LEAST, ["key alpha is 0.5", "less than 0.5"], id="alpha too big"),
        pytest.param(_LEAST + "eps = []\n", ["key evaluations[0].eps is []", "at least 1"], id="no radius"),
        pytest.param(_LEAST + "eps = [0.1]\n", ["key evaluations[0].eps[0] is 0.1", "string"], id="radius no text"),
        pytest.param("margin = 1979-05-27\n" + _LEAST, ["key margin is '1979-05-27'", "number"], id="a date"),
    ],
)
def test_a_fault_is_named_by_file_key_and_what_was_expected(text: str, fragments: list[str], tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidInputError) as caught:
        read_config(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert [fragment for fragment in fragments if fragment not in message] == []
    assert "\n" not in message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot read .*mixbench.toml"):
        read_config(tmp_path / "mixbench.toml")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file_is_a_configuration_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"any\.toml"):
        read_config(path)


def test_the_own_configuration_names_the_whole_digits_zoo() -> None:
    config = read_config(ROOT / "leaderboards" / "gate.toml")
    named = {model for entry in config.evaluations for model in entry.models}
    zoo = {path.parent.name for path in (ROOT / "model_zoo").glob("*.digits*/config.json")}
    assert named == zoo
