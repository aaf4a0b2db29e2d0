from dataclasses import replace

import pytest
import torch

from mixbench.training import Recipe, Schedule
from mixbench.training.schedule import Rate, rate


def rates(recipe: Recipe, updates: int) -> list[Rate]:
    return [rate(recipe, update, updates=updates) for update in range(updates)]


def test_one_cycle_is_torchs(tiny: Recipe) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(()))], lr=tiny.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, tiny.learning_rate, epochs=7, steps_per_epoch=5)
    for found in rates(tiny, 35):
        group = optimizer.param_groups[0]
        assert (found.learning_rate, found.betas) == (group["lr"], group["betas"])
        optimizer.step()
        schedule.step()


def test_piecewise_goes_through_its_knots(tiny: Recipe) -> None:
    recipe = replace(tiny, learning_rate=0.5, schedule=Schedule.PIECEWISE)
    found = [each.learning_rate for each in rates(recipe, 100)]
    assert (found[39], found[79], found[99]) == pytest.approx((0.5, 0.025, 0.0))
    assert (found[19], found[59], found[89]) == pytest.approx((0.25, 0.2625, 0.0125))
    assert {each.betas for each in rates(recipe, 100)} == {(0.9, 0.999)}


@pytest.mark.parametrize("schedule", Schedule)
@pytest.mark.parametrize("updates", [1, 2, 3, 100])
def test_every_update_has_a_rate_up_to_the_peak(schedule: Schedule, updates: int, tiny: Recipe) -> None:
    found = rates(replace(tiny, schedule=schedule), updates)
    assert len(found) == updates
    assert all(0 <= each.learning_rate <= tiny.learning_rate * (1 + 1e-9) for each in found)
