from fractions import Fraction

import numpy as np
import pytest

from mixbench.attacks import Attack, AutoAttack, attack_named
from mixbench.datasets import Examples
from mixbench.errors import InvalidInputError
from mixbench.evaluation import BLOCK_SIZE, Plan, plan
from mixbench.threat_model import ThreatModel
from tests.evaluation.attacks_for_tests import pixel_examples, pushed_plan
from tests.models_for_tests import ImageSize, grey_levels, labelled_by, linear_model, loaded


def planned(*threat_models: str, attack: Attack | None = None, image_size: ImageSize | None = None) -> Plan:
    model = linear_model()
    return plan(
        loaded(model, image_size=image_size),
        labelled_by(model, grey_levels(4)),
        attack or attack_named("pgd"),
        [ThreatModel.parse(text) for text in threat_models],
        seed=0,
    )


def with_classes(num_classes: int) -> Examples:
    return labelled_by(linear_model(), grey_levels(4), num_classes=num_classes)


def test_threat_models_are_ordered_by_eps_and_each_taken_once() -> None:
    found = planned("Linf 8/255", "Linf 1/255", "Linf 16/510", "Linf 4/255")
    assert [str(threat_model) for threat_model in found.threat_models] == ["Linf 1/255", "Linf 4/255", "Linf 8/255"]
    assert [protocol.eps_grid for protocol in found.protocols] == [
        (Fraction(1, 255),),
        (Fraction(1, 255), Fraction(4, 255)),
        (Fraction(1, 255), Fraction(4, 255), Fraction(8, 255)),
    ]


def test_the_first_of_many_radii_has_the_protocol_of_that_radius_alone_and_the_others_have_not() -> None:
    both, small, large = planned("Linf 1/255", "Linf 4/255"), planned("Linf 1/255"), planned("Linf 4/255")
    assert both.protocols[0] == small.protocols[0]
    assert both.record_ids[0] == small.record_ids[0]
    assert both.protocols[1].hash != large.protocols[0].hash
    assert both.record_ids[1] != large.record_ids[0]


@pytest.mark.parametrize(
    "other",
    [
        pushed_plan("1/10", seed=1),
        pushed_plan("1/10", block_size=5),
        pushed_plan("1/5"),
        pushed_plan("1/10", levels=(10, 20)),
        pushed_plan("1/10", stages=()),
    ],
    ids=["seed", "block-size", "eps", "examples", "attack"],
)
def test_another_protocol_has_another_hash(other: Plan) -> None:
    assert other.protocols[0].hash != pushed_plan("1/10").protocols[0].hash


def test_the_protocol_keeps_seed_and_block_size() -> None:
    (protocol,) = pushed_plan("1/10", seed=7).protocols
    assert (protocol.seed, protocol.block_size) == (7, BLOCK_SIZE)


@pytest.mark.parametrize("threat_models", [(), ("Linf 1/10", "L2 1/10")], ids=["none", "two-norms"])
def test_an_evaluation_is_of_one_norm(threat_models: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match="needs threat models of one norm: run each norm by itself"):
        planned(*threat_models)


def test_the_attack_is_asked_before_any_compute_is_spent() -> None:
    with pytest.raises(InvalidInputError, match="pgd has no L1 version"):
        planned("L1 1")
    with pytest.raises(InvalidInputError, match="has 3 classes, and AutoAttack's targeted DLR loss needs at least 4"):
        plan(loaded(linear_model()), with_classes(3), AutoAttack(), [ThreatModel.parse("Linf 1/10")], seed=0)


def test_a_ball_over_all_images_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="eps 7 is over 6, the largest L2 distance between two images"):
        planned("L2 7")


def test_a_model_of_another_image_size_is_refused() -> None:
    planned("Linf 1/10", image_size=(1, 6, 6))
    with pytest.raises(InvalidInputError, match="toy takes images of 3x32x32, toy has 1x6x6: choose a dataset or"):
        planned("Linf 1/10", image_size=(3, 32, 32))


def test_a_block_size_below_one_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="block size 0 is not at least 1: leave it at 1000"):
        pushed_plan("1/10", block_size=0)


def test_the_dataset_is_known_by_the_fingerprint_of_just_these_examples() -> None:
    chosen = pixel_examples().take(np.arange(5), subset="five")
    found = plan(loaded(linear_model()), chosen, attack_named("fgsm"), [ThreatModel.parse("Linf 1/10")], seed=0)
    assert (found.dataset.n, found.dataset.subset) == (5, "five")
    assert found.dataset.fingerprint == chosen.fingerprint != pixel_examples().fingerprint
