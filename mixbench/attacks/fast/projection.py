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
    pulls, directions, rooms = _directed(points, normals, gaps)
    multipliers = _multipliers(pulls, pulls * rooms, rooms, gaps.abs().unsqueeze(-1))
    return torch.minimum(multipliers, rooms).mul_(directions)


def project_l2(points: Points, normals: Points, gaps: PerRow) -> Points:
    """Return the perturbations, least in L2, that carry `points` onto their hyperplanes and keep them in [0, 1].

    As `project_linf`.
    """
    pulls, directions, rooms = _directed(points, normals, gaps)
    multipliers = _multipliers(pulls * pulls, pulls * rooms, rooms / pulls, gaps.abs().unsqueeze(-1))
    return torch.minimum(multipliers * pulls, rooms).mul_(directions)


def _directed(points: Points, normals: Points, gaps: PerRow) -> tuple[Points, Points, Points]:
    """Return how strongly each coordinate acts on the gap, which way closes it (1, -1 or 0), and how far it can go."""
    directions = (normals * gaps.sign().neg_().unsqueeze(-1)).sign_()
    return normals.abs(), directions, torch.where(directions > 0, 1 - points, points)


def _multipliers(rates: Points, caps: Points, ends: Points, distances: PerRow) -> PerRow:
    """Return the m at which the coordinates together have come as far as `distances`; rows end in an axis of 1.

    A coordinate contributes rate * m up to m = end, and cap from there on.
    """
    multipliers = distances / rates.sum(-1, keepdim=True).clamp_min_(_LEAST_SLOPE)
    for _ in range(_MOST_STEPS):
        moving = ends > multipliers
        slopes = (rates * moving).sum(-1, keepdim=True).clamp_min_(_LEAST_SLOPE)
        missing = distances - caps.masked_fill(moving, 0).sum(-1, keepdim=True)
        following = torch.maximum(multipliers, missing / slopes)
        # Rows at rest stay at rest: where looking is free, the rest of the steps is spared.
        if not following.is_cuda and torch.equal(following, multipliers):
            break
        multipliers = following
    return multipliers
