"""Memory decides how many images are passed at once, and nothing else."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from mixbench.attacks import PGD
from mixbench.attacks.autoattack import AutoAttackStage
from mixbench.datasets import Examples
from mixbench.errors import InvalidInputError
from mixbench.evaluation import Evaluation, Plan, Progress, evaluate, plan
from mixbench.store import decode_examples
from mixbench.threat_model import ThreatModel
from tests.evaluation.attacks_for_tests import Staged, pushed_plan
from tests.models_for_tests import Needy, labelled_by, loaded, one_pixel_model, small_convmixer

N = 250


@pytest.fixture(scope="module")
def examples() -> Examples:
    """Images of 1 x 8 x 8 with the labels that an untrained ConvMixer gives them."""
    images = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (N, 1, 8, 8), dtype=np.uint8)
    return labelled_by(small_convmixer(), images, num_classes=10)


def searched(examples: Examples) -> Plan:
    """Return the plan of two real searches on the ConvMixer; the second, slower one is left a tenth of the examples."""
    attack = Staged((PGD(steps=2, relative_step_size=0.5), AutoAttackStage("apgd-ce")))
    return plan(loaded(small_convmixer()), examples, attack, [ThreatModel.parse("Linf 1/15")], seed=0)


def broken(evaluation: Evaluation) -> np.ndarray:
    return decode_examples(evaluation.examples, source="test")["broken"].to_numpy(dtype=bool)


@pytest.fixture(scope="module")
def whole(examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    (evaluation,) = evaluate(searched(examples), workspace=tmp_path_factory.mktemp("whole"))
    return evaluation


@pytest.mark.parametrize("micro_batch", [7, 32, 200])
def test_micro_batches_change_no_verdict_and_no_cost(
    micro_batch: int, whole: Evaluation, examples: Examples, tmp_path: Path
) -> None:
    (cut,) = evaluate(searched(examples), workspace=tmp_path, micro_batch=micro_batch)
    assert all(0 < count < N - 10 for count in whole.record.broken_by.values())
    np.testing.assert_array_equal(broken(cut), broken(whole))
    assert cut.record.broken_by == whole.record.broken_by
    assert cut.record.cost.forwards == whole.record.cost.forwards
    assert cut.record.cost.backwards == whole.record.cost.backwards


@pytest.mark.parametrize("most", [3, 8, 16])
@pytest.mark.parametrize("micro_batch", [None, 12], ids=["fitted", "given"])
def test_a_run_that_is_out_of_memory_halves_until_it_fits_and_ends_with_the_same_verdicts(
    most: int, micro_batch: int | None, tmp_path: Path
) -> None:
    model = Needy(one_pixel_model(), most=most)
    expected = evaluate(pushed_plan("1/50", "1/10", wrong=(4,)), workspace=tmp_path / "roomy")
    found = evaluate(
        pushed_plan("1/50", "1/10", wrong=(4,), model=model), workspace=tmp_path / "needy", micro_batch=micro_batch
    )
    assert bool(model.refused) is (most < (micro_batch or 16))
    assert len(model.refused) <= 5
    for one, other in zip(found, expected, strict=True):
        assert one.examples == other.examples
        np.testing.assert_array_equal(one.adversarials, other.adversarials)


def test_memory_that_ends_in_the_middle_of_a_search_starts_it_again_with_its_seed(
    examples: Examples, tmp_path: Path
) -> None:
    """The model is roomy until the search has begun, so the first attempt is lost half-way."""

    class Shrinking(Needy):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 10:
                self.most = 16
            return super().forward(images)

    few = examples.take(np.arange(40), subset="forty")
    attack, threat_models = Staged((PGD(steps=20),)), [ThreatModel.parse("Linf 1/100")]
    model = Shrinking(small_convmixer(), most=1000)
    heard: list[Progress] = []
    (expected,) = evaluate(
        plan(loaded(small_convmixer()), few, attack, threat_models, seed=0), workspace=tmp_path / "roomy"
    )
    (found,) = evaluate(
        plan(loaded(model), few, attack, threat_models, seed=0), workspace=tmp_path / "needy", progress=heard.append
    )
    assert model.refused
    np.testing.assert_array_equal(broken(found), broken(expected))
    assert found.record.cost.forwards == expected.record.cost.forwards
    assert found.record.cost.backwards == expected.record.cost.backwards
    assert any(later.done < earlier.done for earlier, later in itertools.pairwise(heard))
    assert heard[-1].done == heard[-1].total


def test_a_device_without_memory_for_one_image_is_an_error(tmp_path: Path) -> None:
    run_plan = pushed_plan("1/10", model=Needy(one_pixel_model(), most=0))
    with pytest.raises(InvalidInputError, match="too little memory for a single image"):
        evaluate(run_plan, workspace=tmp_path, micro_batch=4)


def test_other_errors_of_a_model_are_not_taken_for_the_end_of_memory(tmp_path: Path) -> None:
    class Faulty(Needy):
        def forward(self, images: Tensor) -> Tensor:
            if images.requires_grad:
                raise RuntimeError("an illegal memory access was encountered")
            return super().forward(images)

    run_plan = pushed_plan("1/10", model=Faulty(one_pixel_model(), most=100))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        evaluate(run_plan, workspace=tmp_path, micro_batch=100)
