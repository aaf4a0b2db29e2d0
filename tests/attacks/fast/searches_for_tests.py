"""What the tests of the searches share: a loop in place of the engine, and images."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mixbench.attacks.fast.search import Network, S, Search
from mixbench.attacks.fast.streams import example_keys
from mixbench.datasets import load_examples
from mixbench.models import load_model
from tests.models_for_tests import as_floats


def started(
    search: Search[S], network: Network, images: Tensor, labels: Tensor, eps: Tensor, *, run: int = 0, seed: int = 0
) -> S:
    """Return slots of their own memory."""
    keys, runs = example_keys(images, labels, seed=seed), torch.full_like(labels, run)
    with torch.no_grad():
        return search.start(images, labels, keys, network(images), eps, run=runs).copied()


def finished(
    search: Search[S], network: Network, images: Tensor, labels: Tensor, eps: Tensor, *, run: int = 0, seed: int = 0
) -> S:
    """Return the slots at the end of one run."""
    slots = started(search, network, images, labels, eps, run=run, seed=seed)
    num_classes = slots.clean_logits.shape[1]
    for _ in range(search.budget(num_classes) // search.runs(num_classes)):
        search.step(network, slots)
    return slots


def least_margins(search: Search[S], network: Network, images: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """Return the margins after all runs: what is below 0 is broken."""
    runs = range(search.runs(network(images[:1]).shape[1]))
    return torch.stack([finished(search, network, images, labels, eps, run=run).margin for run in runs]).amin(0)


def random_images(n: int, image_size: tuple[int, int, int], *, seed: int = 0) -> Tensor:
    """Return images of which a third of the pixels are black or white, as in real ones."""
    generator = np.random.Generator(np.random.PCG64(seed))
    levels = generator.integers(0, 256, (n, *image_size), dtype=np.uint8)
    levels[generator.random(levels.shape) < 1 / 6] = 0
    levels[generator.random(levels.shape) < 1 / 6] = 255
    return as_floats(levels)


def zoo_digits(cache_dir: Path, *, n: int = 48) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a model of the zoo and the digits that it classifies correctly, of `n`, with their classes."""
    model = load_model("convmixer_frozen.digits").module.eval().requires_grad_(requires_grad=False)
    examples = load_examples("digits", data_dir=None, cache_dir=cache_dir, n_examples=n, seed=0)
    images, labels = as_floats(examples.images), torch.from_numpy(examples.labels)
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    return model, images[right], labels[right]
