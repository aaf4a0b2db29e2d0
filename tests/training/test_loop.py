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
from mixbench.training import Epoch, Recipe, clean_accuracy, train
from mixbench.training.loop import Fit, batch_sizes, batches, held_out


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
        Fit(model, run.examples, None, run.recipe, seed=seed, device=torch.device("cpu")).run(None)
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
    assert card.validation is None
    with torch.no_grad():
        predictions = checkpoint.model(torch.from_numpy(test_digits.images).float() / 255).argmax(1).numpy()
    assert (card.clean.correct, card.clean.total) == (int((predictions == test_digits.labels).sum()), 50)
    assert not checkpoint.model.training


def test_what_was_trained_can_be_saved_and_proven(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("zoo") / "resnet_frozen.toy"
    checkpoint = run("resnet_frozen")
    save_checkpoint(folder, checkpoint, card_text="", overwrite=False)
    assert load_checkpoint(folder).card == checkpoint.card


@pytest.mark.parametrize("kind", ["tiny", "tiny_linf", "tiny_l2"])
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
    assert all((epoch.robust is None) is (kind == "tiny") for epoch in heard)


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


def test_a_diverging_loss_stops_with_update_and_learning_rate(run: Run) -> None:
    with pytest.raises(
        MixbenchError, match=r"stopped being finite in update \d+ \(epoch \d\) at learning rate .*: lower the recipe's"
    ):
        run(recipe=replace(run.recipe, learning_rate=1e30, epochs=3))


class _Constant(nn.Module):
    """Always says class 3."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(10)[3].expand(len(images), 10)


def test_clean_accuracy_counts_what_is_right(test_digits: Examples) -> None:
    clean = clean_accuracy(_Constant(), test_digits)
    assert (clean.correct, clean.total) == (int((test_digits.labels == 3).sum()), 50)


def test_clean_accuracy_is_measured_in_eval_mode_and_leaves_the_mode(test_digits: Examples) -> None:
    model = nn.Sequential(nn.Dropout(1.0), _Constant()).train()
    before = copy.deepcopy(model.state_dict())
    assert clean_accuracy(model, test_digits).total == 50
    assert model.training
    assert model.state_dict() == before


def test_held_out_examples_are_balanced_and_never_trained_on(train_digits: Examples, tiny: Recipe) -> None:
    kept, validation = held_out(train_digits, replace(tiny, validation=30))
    assert validation is not None
    assert (len(kept), len(validation)) == (60, 30)
    assert sorted([*kept.indices, *validation.indices]) == sorted(train_digits.indices)
    assert set(np.bincount(validation.labels, minlength=10)) == {3}
    again = held_out(train_digits, replace(tiny, validation=30, epochs=9, learning_rate=0.5))[1]
    assert again is not None
    assert np.array_equal(again.indices, validation.indices)


def test_nothing_is_held_out_unless_the_recipe_says_so(train_digits: Examples, tiny: Recipe) -> None:
    assert held_out(train_digits, tiny) == (train_digits, None)


def test_holding_out_more_than_half_is_refused(train_digits: Examples, tiny: Recipe) -> None:
    with pytest.raises(InvalidInputError, match="holds out 46 of 90 examples of digits: train on more"):
        held_out(train_digits, replace(tiny, validation=46))


def test_validation_accuracy_is_that_of_the_held_out_examples(run: Run) -> None:
    heard: list[Epoch] = []
    recipe = replace(run.recipe, validation=30)
    checkpoint = train(
        _spec("convmixer_frozen"), run.examples, run.test, recipe, seed=0, command="x", progress=heard.append
    )
    validation = held_out(run.examples, recipe)[1]
    assert validation is not None
    assert checkpoint.card.validation == clean_accuracy(checkpoint.model, validation) == heard[-1].validation
    assert heard[-1].accuracy.total == 60


@pytest.mark.parametrize(
    ("n", "batch", "drop_last", "sizes"),
    [
        pytest.param(70, 32, False, [32, 32, 6], id="a rest"),
        pytest.param(70, 32, True, [32, 32], id="dropped"),
        pytest.param(65, 32, False, [32, 32], id="a single example has no variance"),
        pytest.param(20, 32, True, [20], id="less than a batch is kept"),
        pytest.param(64, 32, True, [32, 32], id="no rest"),
    ],
)
def test_epochs_are_cut_into_batches(n: int, batch: int, drop_last: bool, sizes: list[int], tiny: Recipe) -> None:  # noqa: FBT001
    assert batch_sizes(n, replace(tiny, batch_size=batch, drop_last=drop_last)) == sizes


def test_an_epoch_shows_every_example_once_in_an_order_of_its_own(tiny: Recipe) -> None:
    images, generator = torch.rand(70, 1, 4, 4, generator=_generator()), _generator()
    epochs = [[chosen for chosen, _ in batches(images, tiny, generator)] for _ in range(2)]
    orders = [torch.cat(epoch) for epoch in epochs]
    for epoch, order in zip(epochs, orders, strict=True):
        assert [len(chosen) for chosen in epoch] == [32, 32, 6]
        assert sorted(order.tolist()) == list(range(70))
    assert not torch.equal(*orders)
