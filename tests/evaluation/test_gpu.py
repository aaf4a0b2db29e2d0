"""What must hold on a CUDA device; skipped where there is none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mixbench.attacks import attack_named
from mixbench.datasets import Examples, load_examples
from mixbench.evaluation import Evaluation, evaluate, plan
from mixbench.models import load_model
from mixbench.store import decode_examples
from mixbench.threat_model import ThreatModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    return load_examples("digits", data_dir=None, cache_dir=tmp_path / "cache", n_examples=120, seed=0)


def run(examples: Examples, workspace: Path, *, device: str, micro_batch: int | None = None) -> Evaluation:
    model = load_model("convmixer_frozen.digits")
    run_plan = plan(model, examples, attack_named("pgd"), [ThreatModel.parse("Linf 1/10")], seed=0)
    (evaluation,) = evaluate(run_plan, workspace=workspace, device=device, micro_batch=micro_batch)
    return evaluation


def test_the_fast_engine_finds_in_half_precision_what_it_finds_in_float32(examples: Examples, tmp_path: Path) -> None:
    model, attack = load_model("convmixer_frozen.digits"), attack_named("autoattack", engine="fast")
    run_plan = plan(model, examples, attack, [ThreatModel.parse("Linf 1/10")], seed=0)
    (here,), (there,) = (evaluate(run_plan, workspace=tmp_path / name, device=name) for name in ("cpu", "cuda"))
    assert there.record.provenance.precision == "float32; searched in float16 (fused, Triton)"
    assert (broken(here) != broken(there)).sum() <= 2


def test_a_network_that_makes_the_host_wait_is_attacked_without_graphs(examples: Examples, tmp_path: Path) -> None:
    class Waiting(torch.nn.Module):
        """Reads a number back from the device at every pass."""

        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert float(images.detach().max()) <= 1
            return self.inner(images)

    known, few = load_model("convmixer_frozen.digits"), examples
    waiting = replace(known, module=Waiting(known.module).eval())
    attack = attack_named("autoattack", engine="fast")
    found = []
    for number, model in enumerate((known, waiting)):
        run_plan = plan(model, few, attack, [ThreatModel.parse("Linf 1/5")], seed=0)
        found.append(evaluate(run_plan, workspace=tmp_path / str(number), device="cuda")[0])
    assert (broken(found[0]) != broken(found[1])).sum() <= 2


def broken(evaluation: Evaluation) -> np.ndarray:
    return decode_examples(evaluation.examples, source="test")["broken"].to_numpy(dtype=bool)


def test_the_device_is_named_and_its_memory_measured(examples: Examples, tmp_path: Path) -> None:
    record = run(examples, tmp_path / "w", device="cuda").record
    assert record.provenance.device == torch.cuda.get_device_name()
    assert 0 < record.cost.peak_memory_bytes <= torch.cuda.max_memory_allocated()


def test_a_run_repeats_itself_bit_for_bit(examples: Examples, tmp_path: Path) -> None:
    first, second = (run(examples, tmp_path / name, device="cuda") for name in ("a", "b"))
    assert first.examples == second.examples
    np.testing.assert_array_equal(first.adversarials, second.adversarials)


@pytest.mark.parametrize("micro_batch", [7, 32, 100])
def test_micro_batches_do_not_change_verdicts(examples: Examples, tmp_path: Path, micro_batch: int) -> None:
    whole = run(examples, tmp_path / "whole", device="cuda", micro_batch=10_000)
    cut = run(examples, tmp_path / "cut", device="cuda", micro_batch=micro_batch)
    assert (broken(whole) == broken(cut)).all()


def test_running_out_of_memory_halves_the_micro_batch_and_goes_on(examples: Examples, tmp_path: Path) -> None:
    class Hungry(torch.nn.Module):
        """Asks for more memory than the device has whenever it sees more than 16 images at once."""

        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 16:
                total = torch.cuda.get_device_properties(0).total_memory
                torch.empty(2 * total, dtype=torch.uint8, device=images.device)
            return self.inner(images)

    plain = run(examples, tmp_path / "plain", device="cuda")
    model = load_model("convmixer_frozen.digits")
    hungry = type(model)(Hungry(model.module).eval(), model.identity, model.image_size, model.dataset)
    run_plan = plan(hungry, examples, attack_named("pgd"), [ThreatModel.parse("Linf 1/10")], seed=0)
    (evaluation,) = evaluate(run_plan, workspace=tmp_path / "hungry", device="cuda")
    assert (broken(evaluation) == broken(plain)).all()
