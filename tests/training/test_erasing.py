import numpy as np
import pytest
import torch
from torchvision.transforms import RandomErasing

from mixbench.training.erasing import DRAWS, erased

_N = 4000


def _rectangles(images: torch.Tensor) -> np.ndarray:
    """Return first row, first column, height and width of what is black in each image; zeros where nothing is."""
    rows, columns = ((images[:, 0] == 0).any(dim) for dim in (2, 1))
    places = [(side.int().argmax(1), side.sum(1)) for side in (rows, columns)]
    return torch.stack([places[0][0], places[1][0], places[0][1], places[1][1]], 1).numpy()


def _draws(n: int) -> torch.Tensor:
    return torch.rand(DRAWS, n, generator=torch.Generator().manual_seed(0))


def test_what_is_erased_is_one_rectangle_in_all_channels_and_nothing_else_changes() -> None:
    images = torch.rand(200, 3, 12, 9, generator=torch.Generator().manual_seed(1)) + 0.1
    after = erased(images, _draws(200), share=1)
    for before, image, (top, left, tall, wide) in zip(images, after, _rectangles(after), strict=True):
        expected = before.clone()
        expected[:, top : top + tall, left : left + wide] = 0
        assert torch.equal(image, expected)


def test_rectangles_are_spread_as_torchvision_spreads_them() -> None:
    ours = _rectangles(erased(torch.ones(_N, 1, 32, 32), _draws(_N), share=1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = _rectangles(torch.stack([RandomErasing(1.0)(torch.ones(1, 32, 32)) for _ in range(_N)]))
    deciles = np.linspace(0.1, 0.9, 9)
    assert np.abs(np.quantile(ours, deciles, axis=0) - np.quantile(theirs, deciles, axis=0)).max() <= 1


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_erased_images_is_the_one_asked_for(share: float) -> None:
    changed = (erased(torch.ones(_N, 1, 32, 32), _draws(_N), share=share) == 0).flatten(1).any(1)
    # A rectangle that does not fit is left out, about one in a hundred.
    assert float(changed.float().mean()) == pytest.approx(share, abs=0.02)
