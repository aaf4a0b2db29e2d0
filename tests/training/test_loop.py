import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbench.datasets import Examples
from mixbench.errors import InvalidInputError, MixbenchError
from mixbench.mixers import Mixing, frozen_proof
from mixbench.models import (
    ARCHITECTURES,
    Checkpoint,
    ModelSpec,
    load_checkpoint,
    logits_fingerprint,
    save_checkpoint,
    weights_bytes,
)
from mixbench.threat_model import ThreatModel
from mixbench.training import AdversarialTraining, Epoch, Recipe, clean_accuracy, train
from mixbench.training.loop import _batches, _fit, _flipped, _shifted, adversarial_batch


def _spec(name: str, *, filter_seed: int = 0) -> ModelSpec:
    return ModelSpec.for_dataset(ARCHITECTURES[name], "digits", filter_seed=filter_seed)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Run:
    """Trains on the small digits."""

    def __init__(self, examples: Examples, test: Examples, recipe: Recipe) -> None:
        self.examples, self.test, self.recipe = examples, test, recipe

    def __call__(
        self, name: str = "convmixer_frozen", *, recipe: Recipe | None = None, seed: int = 0, filter_seed: int = 0
    ) -> Checkpoint:
        return train(
            _spec(name, filter_seed=filter_seed),
            self.examples,
            self.test,
            recipe or self.recipe,
            seed=seed,
            command="mixbench train",
        )


@pytest.fixture
def run(train_digits: Examples, test_digits: Examples, tiny: Recipe) -> Run:
    """A function that trains a little."""
    return Run(train_digits, test_digits, tiny)


@pytest.mark.parametrize("name", ["convmixer_frozen", "resnet_spatial"])
@pytest.mark.parametrize("kind", ["tiny", "tiny_linf"])
def test_the_same_seeds_give_the_same_bits(run: Run, name: str, kind: str, request: pytest.FixtureRequest) -> None:
    recipe = request.getfixturevalue(kind)
    assert run(name, recipe=recipe).card.sha256 == run(name, recipe=recipe).card.sha256


def test_another_seed_of_either_kind_gives_another_network(run: Run) -> None:
    hashes = {run(seed=seed, filter_seed=filter_seed).card.sha256 for seed in (0, 1) for filter_seed in (0, 1)}
    assert len(hashes) == 4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_changes_all_that_learns_and_no_bit_of_the_rest(run: Run, name: str) -> None:
    checkpoint = run(name)
    spec = checkpoint.spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initial = dict(spec.build().named_parameters())
    for parameter_name, parameter in checkpoint.model.named_parameters():
        assert torch.equal(parameter, initial[parameter_name]) is not parameter.requires_grad, parameter_name
    frozen_proof(checkpoint.model, spec.architecture.mixing, scheme=spec.scheme, filter_seed=0)
    frozen = checkpoint.card.parameters.frozen
    assert (frozen == 0) is (spec.architecture.mixing is Mixing.TRAINED)
    assert frozen == sum(p.numel() for p in checkpoint.model.parameters() if not p.requires_grad)


def test_two_seeds_share_the_frozen_filters_of_one_filter_seed(run: Run) -> None:
    first, second = run(seed=0, filter_seed=5).model, run(seed=1, filter_seed=5).model
    others = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, others[name]) is not parameter.requires_grad


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_decides_the_initial_values(run: Run, seed: int) -> None:
    """With a vanishing learning rate, training ends where it began."""
    recipe = replace(run.recipe, learning_rate=1e-12, epochs=1)
    trained = dict(run("convmixer_trained", recipe=recipe, seed=seed).model.named_parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        initial = _spec("convmixer_trained").build()
    for name, parameter in initial.named_parameters():
        assert torch.allclose(trained[name], parameter, rtol=0, atol=1e-9)


def test_the_seed_decides_the_order_and_the_augmentation(run: Run) -> None:
    initial, hashes = _spec("convmixer_trained").build(), []
    for seed in (0, 0, 1):
        model = copy.deepcopy(initial)
        _fit(model, run.examples, run.recipe, seed=seed, device=torch.device("cpu"), progress=None)
        hashes.append(weights_bytes(model)[1])
    assert hashes[0] == hashes[1] != hashes[2]


def test_training_leaves_the_global_generators_alone(run: Run) -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global state must stay
    threads = torch.get_num_threads()
    run()
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.get_num_threads() == threads


def test_the_global_generator_has_no_say(run: Run) -> None:
    hashes = set()
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hashes.add(run().card.sha256)
    assert len(hashes) == 1


def test_the_card_says_what_was_done(run: Run, train_digits: Examples, test_digits: Examples) -> None:
    checkpoint = run("convmixer_frozen_smooth", seed=3, filter_seed=4)
    card = checkpoint.card
    assert (card.seed, card.filter_seed, card.filter_scheme, card.mixing) == (
        3,
        4,
        "smoothed(sigma=1)",
        "frozen_smooth",
    )
    assert (card.recipe, card.epochs, card.device, card.command) == ("tiny", 2, "cpu", "mixbench train")
    assert (card.dataset, card.dataset_fingerprint) == ("digits", train_digits.fingerprint)
    assert card.image_size == (1, 8, 8)
    assert card.logits == logits_fingerprint(checkpoint.model, (1, 8, 8))
    with torch.no_grad():
        predictions = checkpoint.model(torch.from_numpy(test_digits.images).float() / 255).argmax(1).numpy()
    assert (card.clean.correct, card.clean.total) == (int((predictions == test_digits.labels).sum()), 50)
    assert not checkpoint.model.training


def test_what_was_trained_can_be_saved_and_proven(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("zoo") / "resnet_frozen.toy"
    checkpoint = run("resnet_frozen")
    save_checkpoint(folder, checkpoint, card_text="", overwrite=False)
    assert load_checkpoint(folder).card == checkpoint.card


@pytest.mark.parametrize("kind", ["tiny", "tiny_linf"])
def test_training_learns(run: Run, kind: str, request: pytest.FixtureRequest) -> None:
    heard: list[Epoch] = []
    recipe = replace(request.getfixturevalue(kind), epochs=12)
    train(_spec("convmixer_frozen"), run.examples, run.test, recipe, seed=0, command="x", progress=heard.append)
    assert [(epoch.number, epoch.epochs, epoch.accuracy.total) for epoch in heard] == [
        (n, 12, 90) for n in range(1, 13)
    ]
    assert heard[-1].loss < 0.85 * heard[0].loss
    assert heard[-1].accuracy.rate > heard[0].accuracy.rate + 0.2
    assert heard[0].loss == pytest.approx(math.log(10), abs=0.7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            ModelSpec.for_dataset(ARCHITECTURES["convmixer_frozen"], "cifar10", filter_seed=0),
            "convmixer_frozen is built for 3 channels and 10 classes, digits has 1 and 10: choose a dataset that fits",
        ),
        (
            replace(_spec("resnet_trained"), args={**_spec("resnet_trained").args, "num_classes": 4}),
            "resnet_trained is built for 1 channels and 4 classes, digits has 1 and 10",
        ),
    ],
    ids=["channels", "classes"],
)
def test_a_spec_that_does_not_fit_the_data_is_refused(run: Run, spec: ModelSpec, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        train(spec, run.examples, run.test, run.recipe, seed=0, command="x")


def test_a_diverging_loss_stops_the_training(run: Run) -> None:
    with pytest.raises(MixbenchError, match=r"the training loss was (nan|inf) in epoch \d at learning rate .*: lower"):
        run(recipe=replace(run.recipe, learning_rate=1e30, epochs=3))


class _Constant(nn.Module):
    """Always says class 3."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(10)[3].expand(len(images), 10)


def test_clean_accuracy_counts_what_is_right(test_digits: Examples) -> None:
    clean = clean_accuracy(_Constant(), test_digits)
    assert (clean.correct, clean.total) == (int((test_digits.labels == 3).sum()), 50)


def _shifted_slowly(images: np.ndarray, reach: int, shifts: np.ndarray) -> np.ndarray:
    n, _, height, width = images.shape
    result = np.zeros_like(images)
    for example in range(n):
        for row in range(height):
            for column in range(width):
                from_row, from_column = row + shifts[0, example] - reach, column + shifts[1, example] - reach
                if 0 <= from_row < height and 0 <= from_column < width:
                    result[example, :, row, column] = images[example, :, from_row, from_column]
    return result


@pytest.mark.parametrize("reach", [1, 2, 5])
def test_images_are_shifted_as_a_slow_loop_does(reach: int) -> None:
    images = torch.rand(20, 3, 5, 7, generator=_generator()) + 0.1
    shifts = torch.randint(0, 2 * reach + 1, (2, 20), generator=_generator(9)).numpy()
    shifted = _shifted(images, reach, _generator(9))
    assert np.array_equal(shifted.numpy(), _shifted_slowly(images.numpy(), reach, shifts))


def test_all_shifts_up_to_the_reach_occur_about_equally_often() -> None:
    images = torch.zeros(9000, 1, 5, 5)
    images[:, 0, 2, 2] = 1
    where = _shifted(images, 1, _generator()).mean(0)[0]
    assert torch.allclose(where[1:4, 1:4], torch.full((3, 3), 1 / 9), atol=0.014)
    assert where.sum() == pytest.approx(1)


def test_no_reach_means_no_shift_and_no_draw() -> None:
    images, generator = torch.rand(2, 1, 3, 3), _generator()
    assert _shifted(images, 0, generator) is images
    assert torch.equal(generator.get_state(), _generator().get_state())


def test_about_half_of_the_images_are_mirrored() -> None:
    images = torch.rand(1000, 2, 3, 4, generator=_generator())
    flipped = _flipped(images, _generator(1))
    mirrored = [torch.equal(after, before.flip(2)) for before, after in zip(images, flipped, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(images, flipped, strict=True)]
    assert all(one is not other for one, other in zip(mirrored, kept, strict=True))
    assert 430 <= sum(mirrored) <= 570


def test_an_epoch_shows_every_example_once_in_an_order_of_its_own(tiny: Recipe) -> None:
    images, labels = torch.rand(70, 1, 4, 4, generator=_generator()), torch.arange(70)
    recipe, generator = replace(tiny, max_shift=0), _generator()
    epochs = [list(_batches(images, labels, recipe, generator)) for _ in range(2)]
    orders = [torch.cat([chosen for _, chosen in epoch]) for epoch in epochs]
    for epoch, order in zip(epochs, orders, strict=True):
        assert [len(chosen) for _, chosen in epoch] == [32, 32, 6]
        assert sorted(order.tolist()) == list(range(70))
        assert torch.equal(torch.cat([batch for batch, _ in epoch]), images[order])
    assert not torch.equal(*orders)


def _linear(weights: Tensor) -> nn.Module:
    """A network whose logits are linear in the pixels."""
    layer = nn.Linear(weights.shape[1], weights.shape[0])
    layer.weight.data, layer.bias.data = weights, torch.zeros(weights.shape[0])
    return nn.Sequential(nn.Flatten(), layer)


@pytest.mark.parametrize("eps", ["1/10", "1/2"])
def test_against_a_linear_network_the_search_reaches_the_closed_form_optimum(eps: str) -> None:
    """With two classes the loss rises along -sign(w_y - w_other) everywhere, so the worst image is a corner."""
    weights = torch.randn(2, 12, generator=_generator(1))
    images = torch.rand(30, 1, 3, 4, generator=_generator(2))
    labels = torch.arange(30) % 2
    training = AdversarialTraining(ThreatModel.parse(f"Linf {eps}"), steps=5, relative_step_size=0.5)
    adversarial = adversarial_batch(_linear(weights), images, labels, training, _generator())
    away = torch.sign(weights[1 - labels] - weights[labels]).reshape(images.shape)
    optimum = (images + float(training.threat_model.eps) * away).clamp(0, 1)
    assert torch.allclose(adversarial, optimum, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_the_search_stays_in_ball_and_box_and_raises_the_loss(train_digits: Examples, steps: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _spec("convmixer_trained").build()
    images = torch.from_numpy(train_digits.images).float() / 255
    labels = torch.from_numpy(train_digits.labels)
    training = AdversarialTraining(ThreatModel.parse("Linf 1/10"), steps=steps, relative_step_size=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adversarial = adversarial_batch(model.train(), images, labels, training, _generator())
    assert (adversarial - images).abs().max() <= 0.1 + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert not adversarial.requires_grad
    # Batch statistics and gradients stay as they were, and so does the mode.
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    loss = nn.CrossEntropyLoss()
    with torch.no_grad():
        losses = [float(loss(model.eval()(batch), labels)) for batch in (images, adversarial)]
    if steps:
        assert losses[1] > losses[0]


def test_the_random_start_fills_the_ball() -> None:
    images = torch.full((50, 1, 4, 4), 0.5)
    training = AdversarialTraining(ThreatModel.parse("Linf 1/4"), steps=0, relative_step_size=1.0)
    start = adversarial_batch(_linear(torch.zeros(2, 16)), images, torch.zeros(50).long(), training, _generator())
    moved = start - images
    assert moved.min() < -0.24
    assert moved.max() > 0.24
    assert moved.abs().mean() == pytest.approx(0.125, abs=0.01)
