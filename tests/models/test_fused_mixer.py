import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from tests.conftest import ROOT

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with torch for CUDA alone"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs the kernels themselves: see test_executors"),
]


@pytest.fixture(scope="module")
def errors() -> dict[str, Any]:
    script = ROOT / "tests" / "models" / "fused_mixer_in_interpreter.py"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    ended = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout)


@pytest.mark.slow
def test_fused_mixers_are_half_precision_away_from_float64(errors: dict[str, Any]) -> None:
    """At positions that fill rows and such that need padding, with zeros or circular around them."""
    assert len(errors["networks"]) == 3
    for network in errors["networks"]:
        assert network["logits"] < 1e-3
        assert network["gradient"] < 4e-3
        assert network["without gradient"] == 0


@pytest.mark.slow
def test_the_fitted_activation_is_as_near_as_it_says(errors: dict[str, Any]) -> None:
    assert errors["gelu"] < 3e-5
    assert errors["slope"] < 1.2e-4


@pytest.mark.slow
def test_the_first_layer_sees_pixels_move_by_less_than_half_precision_shows(errors: dict[str, Any]) -> None:
    assert errors["stem"] < 5e-3
