from dataclasses import replace

import pytest
import torch

from mixbench.mixers import Mixing
from mixbench.probes import PixelPermutation, UnshufflePlan, probe_unshuffle, time_decoders
from mixbench.probes.decoder import ChannelMajorDecoder, DecoderSpec
from mixbench.probes.fitting import Fit, fit_decoder
from mixbench.probes.metrics import as_tensor

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


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-3), (torch.bfloat16, 0.05)])
def test_bands_of_rows_give_the_values_and_gradients_of_the_eager_network(
    dtype: torch.dtype, error: float, *, circular: bool
) -> None:
    spec = DecoderSpec(depth=3, width=16, kernel=7, mixing=Mixing.TRAINED, filter_seed=0, circular=circular)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        eager, other = (spec.build((1, 28, 28)) for _ in range(2))
        images = torch.rand(32, 1, 28, 28).cuda()
    eager, other = eager.cuda(), other.cuda()
    other.load_state_dict(eager.state_dict())
    fast = ChannelMajorDecoder(other, dtype=dtype).cuda()
    decoded = [network.train()(images) for network in (eager, fast)]
    for one in decoded:
        (one - images).square().mean().backward()
    pairs = [(decoded[0], decoded[1]), *zip(eager.parameters(), other.parameters(), strict=True)]
    for number, (first, second) in enumerate(pairs):
        a, b = (first, second) if number == 0 else (first.grad, second.grad)
        assert a is not None
        assert b is not None
        # A bias before a normalisation has no gradient but rounding.
        assert float((a - b).detach().norm()) <= error * float(a.detach().norm()) + 1e-4


def test_replaying_a_graph_trains_as_the_step_itself(plan: UnshufflePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = as_tensor(plan.train.images, torch.device("cuda"))
    shuffled = PixelPermutation.everywhere(8, 8, seed=0).shuffled(truth)
    losses = []
    for graphed in (True, False):
        if not graphed:
            monkeypatch.setattr(Fit, "_gradients", Fit.step)
        losses.append(fit_decoder(plan.spec, shuffled, truth, replace(plan.budget, epochs=5), seed=0).losses)
    assert losses[0] == losses[1]
