import copy
import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from mixbench.models import ARCHITECTURES, ModelSpec
from mixbench.training.acceleration import accelerated
from tests.conftest import ROOT

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with torch for CUDA alone")


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs the kernels themselves, as the next test does")
@pytest.mark.slow
def test_the_kernels_compute_what_torch_does() -> None:
    """Value, every gradient and the running statistics, for all sensible combinations of parts."""
    script = ROOT / "tests" / "models" / "fused_norm_in_interpreter.py"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    ended = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    errors = json.loads(ended.stdout)
    assert len(errors) == 16
    assert [case for case, error in errors if not error < 2e-5] == []


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["convmixer_trained", "resnet_trained", "convmixer_frozen_smooth"])
@pytest.mark.parametrize(("dataset", "size"), [("digits", (1, 8, 8)), ("cifar10_jpeg75", (3, 32, 32))])
@pytest.mark.parametrize("training", [True, False])
def test_on_a_gpu_the_network_is_closer_to_float64_than_autocast_is(
    name: str,
    dataset: str,
    size: tuple[int, int, int],
    training: bool,  # noqa: FBT001
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ModelSpec.for_dataset(ARCHITECTURES[name], dataset, filter_seed=0).build().train(training)
        images = torch.rand(64, *size)
    exact, plain, device = copy.deepcopy(model).double(), copy.deepcopy(model).cuda(), torch.device("cuda")
    fast = accelerated(model.cuda(), size, device).train(training)
    with torch.no_grad():
        expected = exact(images.double())
        found = fast(images.cuda()).cpu().double()
        with torch.autocast("cuda", torch.bfloat16):
            usual = plain(images.cuda()).cpu().double()
    assert (found - expected).norm() < (usual - expected).norm()
    assert (found - expected).norm() < 0.05 * expected.norm()


@needs_gpu
@pytest.mark.gpu
def test_on_a_gpu_results_repeat_bit_for_bit() -> None:
    model = ModelSpec.for_dataset(ARCHITECTURES["convmixer_trained"], "cifar10_jpeg75", filter_seed=0).build().cuda()
    images, labels = torch.rand(64, 3, 32, 32).cuda(), (torch.arange(64) % 10).cuda()
    runs = []
    for _ in range(2):
        # A copy each, since the running statistics, which move, decide how sums are rounded.
        fast = accelerated(copy.deepcopy(model), (3, 32, 32), torch.device("cuda")).train()
        nn.functional.cross_entropy(fast(images), labels).backward()
        runs.append([parameter.grad.clone() for parameter in fast.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))
