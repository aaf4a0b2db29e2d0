import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbench.errors import InvalidInputError
from mixbench.evaluation.metering import (
    MeteredModel,
    align_in_order,
    fitting_micro_batch,
    halved,
    is_out_of_memory,
    memory_budget,
)
from tests.canaries.digits_model import Wrapped
from tests.models_for_tests import as_floats, grey_levels, linear_model, small_convmixer

MODEL = linear_model()
IMAGES = as_floats(grey_levels(8))
LITTLE = 0.01


def metered(images: Tensor = IMAGES, *, micro_batch: int = 100) -> MeteredModel:
    return MeteredModel(MODEL, images=images, num_classes=4, micro_batch=micro_batch)


def cheapest(distances: np.ndarray) -> float:
    """Return the least total distance of all order-preserving assignments, by trying each."""
    rows, columns = distances.shape
    return min(distances[range(rows), list(chosen)].sum() for chosen in itertools.combinations(range(columns), rows))


@pytest.mark.parametrize("levels", [1000, 3], ids=["distinct", "many-ties"])
def test_alignment_is_the_cheapest_of_all_that_keep_the_order(levels: int) -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    for _ in range(300):
        columns = int(generator.integers(1, 8))
        rows = int(generator.integers(1, columns + 1))
        distances = generator.integers(0, levels, (rows, columns)).astype(np.float64)
        found = align_in_order(distances)
        assert np.all(np.diff(found) > 0)
        assert distances[range(rows), found].sum() == cheapest(distances)


@pytest.mark.parametrize("kept", [[0, 1, 2], [0, 2, 4], [1, 3, 5], [0, 1, 2, 3, 4, 5]], ids=str)
def test_duplicate_images_are_told_apart_by_their_order(kept: list[int]) -> None:
    """Images 0 = 1, 2 = 3, 4 = 5: the number of passes of each pair is right, whichever twin they go to."""
    images = IMAGES[:3].repeat_interleave(2, dim=0)
    model = metered(images)
    model(images[kept] + LITTLE)
    assert model.forwards.max() == 1
    pairs = np.add.reduceat(model.forwards, [0, 2, 4])
    assert pairs.tolist() == np.bincount(np.array(kept) // 2, minlength=3).tolist()


def test_passes_are_counted_for_the_examples_that_are_still_there() -> None:
    """Examples drop out, stay away, and come back for the next run, as in a search with restarts."""
    model = metered()
    sequence = [range(8), [0, 1, 2, 4, 5, 6, 7], [1, 4, 5, 7], [1, 4, 5, 7], [4], range(8), [2, 3], [0, 2, 3]]
    expected = np.zeros(8, dtype=np.int64)
    generator = torch.Generator().manual_seed(0)
    for present in sequence:
        positions = list(present)
        noise = LITTLE * torch.randn(len(positions), *IMAGES.shape[1:], generator=generator)
        model(IMAGES[positions] + noise)
        expected[positions] += 1
        assert model.forwards.tolist() == expected.tolist()
    assert model.backwards.sum() == 0


def test_backward_passes_are_counted_for_the_examples_of_their_forward() -> None:
    model = metered()
    present = [1, 4, 5]
    images = IMAGES[present].clone().requires_grad_()
    logits = model(images)
    model(IMAGES)
    for _ in range(2):
        torch.autograd.grad(logits.sum(), [images], retain_graph=True)
    assert model.backwards.tolist() == [0, 2, 0, 0, 2, 2, 0, 0]
    assert model.forwards.tolist() == [1, 2, 1, 1, 2, 2, 1, 1]


def test_each_pass_is_reported_with_its_number_of_examples() -> None:
    reported: list[tuple[int, int]] = []
    model = MeteredModel(
        MODEL, images=IMAGES, num_classes=4, micro_batch=3, on_pass=lambda *passes: reported.append(passes)
    )
    images = IMAGES.clone().requires_grad_()
    torch.autograd.grad(model(images).sum(), [images])
    model(IMAGES[:2])
    assert reported == [(8, 0), (0, 8), (2, 0)]


@pytest.mark.parametrize("micro_batch", [1, 3, 7, 8, 100])
def test_cutting_a_batch_changes_neither_logits_nor_gradients_nor_counts(micro_batch: int) -> None:
    # In float32 the kernels round differently for batches of other sizes.
    model = small_convmixer().double().requires_grad_(requires_grad=False)
    images = torch.rand((20, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sizes: list[int] = []

    def note(batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        return batch

    def logits_and_gradient(network: nn.Module) -> tuple[Tensor, Tensor]:
        asked = images.clone().requires_grad_()
        logits = network(asked)
        return logits.detach(), torch.autograd.grad(logits.square().sum(), [asked])[0]

    expected = logits_and_gradient(model)
    cut = MeteredModel(Wrapped(model, before=note), images=images, num_classes=10, micro_batch=micro_batch)
    found = logits_and_gradient(cut)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(cut(images), expected[0], rtol=1e-9, atol=1e-9)
    assert max(sizes) <= micro_batch
    assert (cut.forwards.tolist(), cut.backwards.tolist()) == ([2] * 20, [1] * 20)


def test_a_cut_batch_keeps_nothing_but_its_images_for_the_backward_pass() -> None:
    """Memory stays that of one cut, since each is computed again in the backward pass."""
    model = small_convmixer().requires_grad_(requires_grad=False)
    images = torch.rand(32, 1, 8, 8)

    def kept(micro_batch: int) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        network = MeteredModel(model, images=images, num_classes=10, micro_batch=micro_batch)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = network(images.clone().requires_grad_())
        del logits
        return sum(sizes.values())

    assert kept(4) < kept(32) / 4


def test_the_wrapper_is_in_eval_mode_and_knows_the_classes() -> None:
    model = metered()
    assert not any(module.training for module in model.modules())
    assert model.num_classes == 4


def test_the_micro_batch_grows_with_the_memory_and_shrinks_with_the_image() -> None:
    model = small_convmixer()
    image, large_image = torch.rand(1, 1, 8, 8), torch.rand(1, 1, 16, 16)
    once = fitting_micro_batch(model, image, budget=10**7)
    assert once >= 10
    assert fitting_micro_batch(model, image, budget=4 * 10**7) == pytest.approx(4 * once, abs=4)
    assert fitting_micro_batch(model, large_image, budget=10**7) == pytest.approx(once / 4, rel=0.1)
    assert fitting_micro_batch(model, image, budget=1) == 1


def test_the_micro_batch_leaves_room_for_what_autograd_really_keeps() -> None:
    """The oracle is the sum over the layers' outputs, counted by hand: six maps of 16 x 4 x 4 floats at least."""
    one_example = 6 * 16 * 4 * 4 * 4
    assert fitting_micro_batch(small_convmixer(), torch.rand(1, 1, 8, 8), budget=10**7) < 10**7 / one_example


def test_parameters_do_not_count_as_memory_of_an_example() -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(36, 10_000), nn.Linear(10_000, 4)).eval()
    assert fitting_micro_batch(wide, IMAGES[:1], budget=10**6) > 5


def test_there_is_memory_for_something_on_the_cpu() -> None:
    assert memory_budget(torch.device("cpu")) >= 2**20


def test_the_end_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(("before", "after"), [(200, 100), (7, 3), (3, 1), (2, 1)])
def test_the_next_try_takes_half(before: int, after: int) -> None:
    assert halved(before, error=RuntimeError()) == after


def test_a_single_image_that_does_not_fit_is_the_end() -> None:
    with pytest.raises(InvalidInputError, match="too little memory for a single image"):
        halved(1, error=RuntimeError())
