"""Projections onto a hyperplane within the box [0, 1]: the least perturbation that reaches it, without sorting.

Both norms spend their perturbation along the same path. With a multiplier m growing from 0, coordinate i moves towards
the hyperplane at a speed of its own (1 in Linf, |normal| in L2) until it meets the box; how far the point has come is a
concave, piecewise linear function of m. Newton's method from the left never overshoots the root of such a function, and
each of its steps divides the product of what is missing and of the slope by at least 4.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Points = Float[Tensor, "*row coordinate"]
PerRow = Float[Tensor, "*row"]

_MOST_STEPS = 12
_LEAST_SLOPE = 1e-30


def project_linf(points: Points, normals: Points, gaps: PerRow) -> Points:
    """Return the perturbations, least in Linf, that carry `points` onto their hyperplanes and keep them in [0, 1].

    `gaps` is the value of each hyperplane's equation at its point: normal . point - offset. Where the box does not
    reach the hyperplane, the perturbation leads as near to it as the box allows.
    """
    pulls = normals.abs()
    rooms = _rooms(points, normals, gaps)
    multipliers = _multipliers(pulls, pulls * rooms, rooms, gaps.abs())
    return _directed(torch.minimum(multipliers.unsqueeze(-1), rooms), normals, gaps)


def project_l2(points: Points, normals: Points, gaps: PerRow) -> Points:
    """Return the perturbations, least in L2, that carry `points` onto their hyperplanes and keep them in [0, 1].

    As `project_linf`.
    """
    pulls = normals.abs()
    rooms = _rooms(points, normals, gaps)
    multipliers = _multipliers(pulls * pulls, pulls * rooms, rooms / pulls, gaps.abs())
    return _directed(torch.minimum(multipliers.unsqueeze(-1) * pulls, rooms), normals, gaps)


def _rooms(points: Points, normals: Points, gaps: PerRow) -> Points:
    """Return how far each coordinate can move towards the hyperplane."""
    return torch.where((normals < 0) == (gaps.unsqueeze(-1) < 0), points, 1 - points)


def _multipliers(rates: Points, caps: Points, ends: Points, distances: PerRow) -> PerRow:
    """Return the m at which the coordinates together have come as far as `distances`.

    A coordinate contributes rate * m up to m = end, and cap from there on.
    """
    multipliers = distances / rates.sum(-1).clamp_min(_LEAST_SLOPE)
    for _ in range(_MOST_STEPS):
        moving = ends > multipliers.unsqueeze(-1)
        slopes = (rates * moving).sum(-1).clamp_min_(_LEAST_SLOPE)
        missing = distances - caps.masked_fill(moving, 0).sum(-1)
        following = torch.maximum(multipliers, missing / slopes)
        # Rows at rest stay at rest: where looking is free, the rest of the steps is spared.
        if not following.is_cuda and torch.equal(following, multipliers):
            break
        multipliers = following
    return multipliers


def _directed(lengths: Points, normals: Points, gaps: PerRow) -> Points:
    return -lengths * normals.sign() * gaps.sign().unsqueeze(-1)
