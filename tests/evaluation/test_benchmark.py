import pytest
import torch

from mixbench.attacks import AutoAttack
from mixbench.evaluation import BareRun, Comparison, compare_with_bare, plan
from mixbench.threat_model import ThreatModel
from tests.canaries.digits_model import Wrapped
from tests.models_for_tests import grey_levels, labelled_by, linear_model, loaded


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """A model whose quantisation hides its gradients, so that the searches share the work; two labels are wrong."""
    model = Wrapped(linear_model(), before=lambda images: torch.round(images * 32) / 32).eval()
    examples = labelled_by(model, grey_levels(12), wrong=(0, 7))
    run_plan = plan(loaded(model), examples, AutoAttack(), [ThreatModel.parse("Linf 1/10")], seed=1)
    return compare_with_bare(run_plan, device="cpu", batch_sizes=[100, 12])


def test_the_harness_and_the_bare_library_agree_on_every_example(comparison: Comparison) -> None:
    assert len([count for count in comparison.record.broken_by.values() if count]) >= 2
    assert comparison.agreement == 1
    assert [run.robust for run in comparison.bare] == [comparison.record.robust.correct]


def test_batches_larger_than_the_block_are_the_block(comparison: Comparison) -> None:
    assert [run.batch_size for run in comparison.bare] == [12]


def test_the_ratio_is_taken_from_the_fastest_bare_run(comparison: Comparison) -> None:
    runs = (BareRun(batch_size=10, seconds=4, robust=0), BareRun(batch_size=20, seconds=2, robust=0))
    assert Comparison(comparison.record, harness_seconds=3, bare=runs, agreement=1).ratio == 1.5
