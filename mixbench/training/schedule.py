"""The course of the learning rate, as a table."""

from dataclasses import dataclass

import numpy as np
import torch

from mixbench.training.recipes import Recipe, Schedule

_BETAS = (0.9, 0.999)
_KNOTS = (0.0, 0.4, 0.8, 1.0)
_LEVELS = (0.0, 1.0, 0.05, 0.0)


@dataclass(frozen=True)
class Rate:
    """AdamW's settings for one update."""

    learning_rate: float
    betas: tuple[float, float]


def rates(recipe: Recipe, updates: int) -> list[Rate]:
    """Return the settings of each of the `updates` of a run by `recipe`."""
    if recipe.schedule is Schedule.PIECEWISE:
        places = np.arange(1, updates + 1) / updates
        levels = recipe.learning_rate * np.interp(places, _KNOTS, _LEVELS)
        return [Rate(float(level), _BETAS) for level in levels]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(()))], lr=recipe.learning_rate, betas=_BETAS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=updates)
    table: list[Rate] = []
    for update in range(updates):
        group = optimizer.param_groups[0]
        table.append(Rate(float(group["lr"]), group["betas"]))
        optimizer.step()
        if update + 1 < updates:
            schedule.step()
    return table
