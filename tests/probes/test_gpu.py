from dataclasses import replace

import pytest
import torch

from mixbench.probes import UnshufflePlan, probe_unshuffle, time_decoders

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_decoder_trained_on_the_gpu_is_about_as_good(plan: UnshufflePlan) -> None:
    longer = replace(plan, budget=replace(plan.budget, epochs=30), permutation_seeds=(0,))
    found = [probe_unshuffle(longer, device=device).record for device in ("cpu", "cuda")]
    first, second = (record.of("decoder")[0].metrics["psnr"].value for record in found)
    assert first == pytest.approx(second, abs=1.5)


def test_both_ways_are_timed(plan: UnshufflePlan) -> None:
    assert [one.way for one in time_decoders(plan, device="cuda")] == ["mixbench", "eager float32"]
