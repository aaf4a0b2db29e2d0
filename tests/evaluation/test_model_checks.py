from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from mixbench.errors import InvalidInputError
from mixbench.evaluation.model_checks import check_images, check_outputs, exact_float32, ready_for_attack
from tests.canaries.digits_model import Wrapped
from tests.models_for_tests import Needy, as_floats, grey_levels, linear_model, small_convmixer

IMAGES = as_floats(grey_levels(8))
CPU = torch.device("cpu")


def answering(after: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a model whose logits pass through `after`."""
    return Wrapped(linear_model(), after=after).eval()


def nan_in_one(logits: Tensor) -> Tensor:
    logits = logits.clone()
    logits[3, 1] = torch.nan
    return logits


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda logits: logits.softmax(1), r"returned probabilities .* row sums to 1\), .* remove its final softmax"),
        (lambda logits: 1e6 * logits.softmax(1), r"returned probabilities .* every row sums to 1e\+06\)"),
        (nan_in_one, "returned NaN or infinite logits for clean images: its weights are damaged"),
        (lambda logits: logits / 0, "returned NaN or infinite logits"),
        (lambda logits: logits[:, :3], "returned 3 classes and the dataset has 4: choose a model trained on it"),
        (lambda logits: logits[:, 0], r"returned shape \(8,\) for 8 images, expected a row of logits each"),
        (lambda logits: logits[:5], r"returned shape \(5, 4\) for 8 images"),
        (lambda logits: logits[:, :, None, None], r"returned shape \(8, 4, 1, 1\) for 8 images"),
    ],
    ids=["softmax", "scaled-softmax", "nan", "infinite", "classes", "one-number", "too-few-rows", "maps"],
)
def test_outputs_that_are_no_logits_are_refused(after: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^the model {message}") as caught:
        check_outputs(answering(after), IMAGES, num_classes=4)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "after",
    [
        lambda logits: logits,
        lambda logits: logits.relu(),
        lambda logits: logits.relu() * 1e-4,
        lambda logits: logits.log_softmax(1),
    ],
    ids=["logits", "none-below-0", "tiny-none-below-0", "log-probabilities"],
)
def test_logits_are_accepted(after: Callable[[Tensor], Tensor]) -> None:
    check_outputs(answering(after), IMAGES, num_classes=4)


def test_a_model_for_images_of_another_size_is_refused_with_the_size() -> None:
    with pytest.raises(InvalidInputError, match=r"cannot take images of 3x32x32 \(.+\): choose a dataset of the size"):
        check_outputs(linear_model(), torch.rand(2, 3, 32, 32), num_classes=4)


def test_the_end_of_memory_is_no_fault_of_the_model() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        check_outputs(Needy(linear_model(), most=4), IMAGES, num_classes=4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES * 255, "images have values from 100 to 155, expected .* pass pixels divided by 255"),
        (IMAGES - 0.5, r"images have values from -0\.107843 to 0\.107843, expected \[0, 1\]"),
        (torch.full((1, 1, 2, 2), torch.nan), "images have values from nan to nan"),
        (torch.full((1, 1, 2, 2), torch.inf), "images have values from inf to inf"),
    ],
    ids=["grey-levels", "normalised", "nan", "infinite"],
)
def test_images_outside_of_the_box_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        check_images(images)


def test_images_on_the_edges_of_the_box_are_accepted() -> None:
    check_images(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))


@pytest.mark.parametrize("part", ["", "model.head", "model.blocks"], ids=["whole", "head", "blocks"])
def test_a_model_that_is_even_partly_in_train_mode_is_refused(part: str) -> None:
    model = Wrapped(small_convmixer()).eval()
    model.get_submodule(part).train()
    with (
        pytest.raises(InvalidInputError, match=r"is in train mode, where .*: call model.eval\(\) first"),
        ready_for_attack(model, CPU),
    ):
        pass


class AttackError(Exception):
    """Stands in for whatever an attack raises."""


def end(*, fails: bool) -> None:
    if fails:
        raise AttackError


@pytest.mark.parametrize("fails", [False, True], ids=["success", "exception"])
def test_gradients_of_parameters_are_off_meanwhile_and_restored_one_by_one(*, fails: bool) -> None:
    model = small_convmixer()
    learning = [number % 3 == 0 for number, _ in enumerate(model.parameters())]
    for parameter, learns in zip(model.parameters(), learning, strict=True):
        parameter.requires_grad_(learns)
    try:
        with ready_for_attack(model, CPU):
            assert not any(parameter.requires_grad for parameter in model.parameters())
            end(fails=fails)
    except AttackError:
        assert fails
    assert [parameter.requires_grad for parameter in model.parameters()] == learning
    assert {parameter.device for parameter in model.parameters()} == {CPU}


def test_a_model_that_cannot_be_moved_is_left_as_it_was() -> None:
    model = linear_model()
    with pytest.raises((RuntimeError, AssertionError)), ready_for_attack(model, torch.device("cuda:999")):
        pass
    assert model.weights.requires_grad
    assert model.weights.device == CPU


@pytest.fixture
def precision() -> Iterator[None]:
    """Put torch's precision back, whichever of its two interfaces a test has used."""
    yield
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("wanted", ["highest", "high", "medium"])
@pytest.mark.parametrize("fails", [False, True], ids=["success", "exception"])
def test_float32_is_exact_meanwhile_and_as_coarse_as_before_afterwards(wanted: str, *, fails: bool) -> None:
    torch.set_float32_matmul_precision(wanted)
    convolution = torch.backends.cudnn.allow_tf32
    try:
        with exact_float32():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
            end(fails=fails)
    except AttackError:
        assert fails
    assert torch.get_float32_matmul_precision() == wanted
    assert torch.backends.cudnn.allow_tf32 is convolution


@pytest.mark.usefixtures("precision")
@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="needs torch 2.9")
def test_float32_is_exact_in_a_program_that_uses_the_newer_switches() -> None:
    """Once they are set, torch raises whenever the older ones are read."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with exact_float32():
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
