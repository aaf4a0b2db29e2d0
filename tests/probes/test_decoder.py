import pytest
import torch

from mixbench.errors import CheckpointError, InvalidInputError
from mixbench.mixers import Mixing
from mixbench.probes.decoder import ChannelMajorDecoder, DecoderSpec


def spec(depth: int = 2, kernel: int = 3, *, mixing: Mixing = Mixing.FROZEN, circular: bool = False) -> DecoderSpec:
    return DecoderSpec(depth=depth, width=8, kernel=kernel, mixing=mixing, filter_seed=0, circular=circular)


@pytest.mark.parametrize(("depth", "kernel"), [(1, 3), (2, 3), (3, 3), (1, 5), (2, 5), (1, 7)])
def test_the_reach_is_that_of_the_gradient(depth: int, kernel: int) -> None:
    chosen = spec(depth, kernel)
    decoder = chosen.build((1, 15, 15)).double().eval()
    images = torch.rand(1, 1, 15, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images.requires_grad_()
    decoder(images)[0, 0, 7, 7].backward()
    assert images.grad is not None
    rows, columns = images.grad[0, 0].nonzero(as_tuple=True)
    for places in (rows, columns):
        assert (int(places.min()), int(places.max())) == (7 - chosen.reach, 7 + chosen.reach)


@pytest.mark.parametrize(("depth", "kernel", "advice"), [(3, 5, "depth 4 or kernel 7"), (1, 3, "depth 7 or kernel 15")])
def test_too_short_a_reach_is_refused_with_what_would_do(depth: int, kernel: int, advice: str) -> None:
    with pytest.raises(InvalidInputError, match=f"8x8 image may be moved by 7: choose {advice}"):
        spec(depth, kernel).check_reaches(8)


@pytest.mark.parametrize("side", [8, 28, 32])
@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
def test_what_is_advised_does(side: int, kernel: int) -> None:
    with pytest.raises(InvalidInputError) as refused:
        spec(1, kernel).check_reaches(side)
    words = str(refused.value).rpartition("choose ")[2].split()
    depth, wider = int(words[1]), int(words[-1])
    spec(depth, kernel).check_reaches(side)
    spec(1, wider).check_reaches(side)
    for less in (spec(depth - 1, kernel), spec(1, wider - 2)):
        assert less.reach < side - 1


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="kernel 4 is even"):
        spec(10, 4).check_reaches(8)


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("mixing", list(Mixing))
@pytest.mark.parametrize("size", [(2, 8, 8), (1, 60, 8)])  # as a whole and in bands of rows
def test_the_fast_path_computes_the_same_with_the_same_gradients(
    mixing: Mixing, size: tuple[int, int, int], *, circular: bool
) -> None:
    chosen = spec(2, 5, mixing=mixing, circular=circular)
    eager, other = (chosen.build(size).double() for _ in range(2))
    other.load_state_dict(eager.state_dict())
    fast = ChannelMajorDecoder(other, dtype=torch.float64)
    images = torch.rand(4, *size, dtype=torch.float64)
    for network in (eager, fast):
        network.train()(images).square().mean().backward()
    torch.testing.assert_close(fast.eval()(images), eager.eval()(images), rtol=1e-5, atol=1e-6)
    for first, second in zip(eager.parameters(), other.parameters(), strict=True):
        assert (first.grad is None) == (second.grad is None) == (not first.requires_grad)
        if first.grad is not None and second.grad is not None:
            torch.testing.assert_close(first.grad, second.grad, rtol=1e-5, atol=1e-6)


def test_circular_padding_knows_no_position_and_zero_padding_does() -> None:
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    rolled = images.roll((3, 2), dims=(2, 3))
    for circular in (True, False):
        decoder = spec(3, 5, circular=circular).build((1, 8, 8)).eval()
        with torch.no_grad():
            same = torch.allclose(decoder(rolled), decoder(images).roll((3, 2), dims=(2, 3)), atol=1e-5)
        assert same is circular


@pytest.mark.parametrize("mixing", [Mixing.FROZEN, Mixing.FROZEN_SMOOTH, Mixing.SPATIAL])
def test_a_changed_filter_fails_the_proof(mixing: Mixing) -> None:
    chosen = spec(2, 3, mixing=mixing)
    decoder = chosen.build((1, 8, 8))
    chosen.prove_frozen(decoder)
    frozen = next(parameter for parameter in decoder.mixer.parameters() if not parameter.requires_grad)
    with torch.no_grad():
        frozen.view(-1)[0] += 1e-6
    with pytest.raises(CheckpointError, match="is not frozen: 1 of"):
        chosen.prove_frozen(decoder)


@pytest.mark.parametrize("mixing", list(Mixing))
def test_stem_normalisation_and_output_learn_in_every_mode(mixing: Mixing) -> None:
    decoder = spec(mixing=mixing).build((1, 8, 8))
    learning = {name for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    assert {"mixer.stem.0.weight", "mixer.stem.2.weight", "output.weight", "output.bias"} <= learning
