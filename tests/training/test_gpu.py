from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mixbench.datasets import Examples
from mixbench.models import ARCHITECTURES, ModelSpec
from mixbench.training import Epoch, RandAugment, Recipe, train
from mixbench.training.loop import Fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SPEC = ModelSpec.for_dataset(ARCHITECTURES["convmixer_frozen"], "digits", filter_seed=0)


class _KilledError(Exception):
    """In place of a signal."""


@pytest.mark.parametrize("kind", ["tiny", "tiny_linf", "tiny_l2"])
def test_replaying_a_graph_trains_as_the_step_itself(
    kind: str, request: pytest.FixtureRequest, train_digits: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe: Recipe = request.getfixturevalue(kind)
    recipe = replace(recipe, rand_augment=RandAugment(2, 9), drop_last=True)
    weights = []
    for graphed in (True, False):
        if not graphed:
            monkeypatch.setattr(Fit, "_run_for", lambda self, *_: self.step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = SPEC.build().cuda()
        Fit(model, train_digits, None, recipe, seed=0, device=torch.device("cuda")).run(None)
        weights.append([tensor.clone() for tensor in model.state_dict().values()])
    assert all(torch.equal(first, second) for first, second in zip(*weights, strict=True))


def test_a_resumed_run_is_as_accurate(
    train_digits: Examples, test_digits: Examples, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixbench.training.loop._SECONDS_BETWEEN_STATES", 0.0)
    recipe = replace(tiny, epochs=30, drop_last=True)

    def stop(epoch: Epoch) -> None:
        if epoch.number == 15:
            raise _KilledError

    whole = train(SPEC, train_digits, test_digits, recipe, seed=0, device="cuda", command="x")
    with pytest.raises(_KilledError):
        train(
            SPEC,
            train_digits,
            test_digits,
            recipe,
            seed=0,
            device="cuda",
            command="x",
            workspace=tmp_path,
            progress=stop,
        )
    resumed = train(SPEC, train_digits, test_digits, recipe, seed=0, device="cuda", command="x", workspace=tmp_path)
    assert resumed.card.clean.rate == pytest.approx(whole.card.clean.rate, abs=0.1)
