from collections.abc import Callable

import numpy as np
import pytest
import torch
from pyautoattack.fab_projections import projection_l2, projection_linf
from scipy.optimize import linprog, minimize
from torch import Tensor

from mixbench.attacks.fast.projection import project_l2, project_linf

Projection = Callable[[Tensor, Tensor, Tensor], Tensor]

both_norms = pytest.mark.parametrize(
    "project", [pytest.param(project_linf, id="Linf"), pytest.param(project_l2, id="L2")]
)


def hyperplanes(rows: int, coordinates: int, *, reach: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return points, a third of whose coordinates meet the box, normals, a tenth of them 0, and gaps.

    The gaps are up to `reach` of the way right across the box; from about the middle half of it is to be had.
    """
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(rows, coordinates, generator=generator)
    points = torch.where(torch.rand(rows, coordinates, generator=generator) < 1 / 3, points.round(), points)
    normals, sizes = torch.randn(2, rows, coordinates, generator=generator)
    normals *= sizes.exp()
    normals[torch.rand(rows, coordinates, generator=generator) < 0.1] = 0
    gaps = (2 * torch.rand(rows, generator=generator) - 1) * reach * normals.abs().sum(1)
    return points, normals, gaps


def least_linf(point: np.ndarray, normal: np.ndarray, gap: float) -> float:
    """Return the least radius at which a linear program finds a perturbation onto the hyperplane."""
    n = len(point)
    answer = linprog(
        c=np.append(np.zeros(n), 1),
        A_ub=np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]]),
        b_ub=np.zeros(2 * n),
        A_eq=np.append(normal, 0)[None],
        b_eq=[-gap],
        bounds=[*zip(-point, 1 - point, strict=True), (0, None)],
    )
    return answer.fun if answer.success else np.nan


def least_l2(point: np.ndarray, normal: np.ndarray, gap: float) -> float:
    """Return the norm of the perturbation that a quadratic program finds, or NaN where none reaches the hyperplane."""
    if np.isnan(least_linf(point, normal, gap)):
        return np.nan
    answer = minimize(
        lambda perturbation: perturbation @ perturbation,
        np.zeros(len(point)),
        jac=lambda perturbation: 2 * perturbation,
        constraints={"type": "eq", "fun": lambda p: normal @ p + gap, "jac": lambda _: normal},
        bounds=[*zip(-point, 1 - point, strict=True)],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 300},
    )
    assert answer.success
    return float(np.sqrt(answer.fun))


@pytest.mark.parametrize(
    ("project", "order", "oracle"), [(project_linf, torch.inf, least_linf), (project_l2, 2, least_l2)]
)
def test_perturbations_are_as_small_as_a_mathematical_program_finds_them(
    project: Projection, order: float, oracle: Callable[[np.ndarray, np.ndarray, float], float]
) -> None:
    points, normals, gaps = hyperplanes(60, 7, reach=0.6)
    perturbations = project(points, normals, gaps)
    sizes = torch.linalg.vector_norm(perturbations, ord=order, dim=1).numpy()
    rows = zip(points.double().numpy(), normals.double().numpy(), gaps.double().numpy(), strict=True)
    expected = np.array([oracle(*row) for row in rows])
    reachable = ~np.isnan(expected)
    assert 30 < reachable.sum() < 60
    np.testing.assert_allclose(sizes[reachable], expected[reachable], rtol=1e-4, atol=1e-6)


@both_norms
@pytest.mark.parametrize("reach", [0.003, 0.1, 0.3])
def test_points_land_on_their_hyperplanes_inside_the_box(project: Projection, reach: float) -> None:
    points, normals, gaps = hyperplanes(100, 3072, reach=reach)
    perturbations = project(points, normals, gaps)
    left = gaps.double() + (normals.double() * perturbations.double()).sum(1)
    assert (left.abs() <= 1e-6 * normals.abs().sum(1)).all()
    assert ((points + perturbations >= 0) & (points + perturbations <= 1)).all()
    assert (perturbations[normals == 0] == 0).all()


@both_norms
def test_hyperplanes_out_of_reach_are_approached_as_near_as_the_box_allows(project: Projection) -> None:
    points, normals, gaps = hyperplanes(50, 20, reach=0)
    gaps = torch.where(torch.arange(50) % 2 == 0, 1.0, -1.0) * 2 * normals.abs().sum(1)
    nearest = torch.where((normals > 0) == (gaps > 0)[:, None], 0.0, 1.0)
    expected = torch.where(normals == 0, 0.0, nearest - points)
    torch.testing.assert_close(project(points, normals, gaps), expected, rtol=0, atol=0)


@both_norms
def test_a_point_on_its_hyperplane_stays(project: Projection) -> None:
    points, normals, _ = hyperplanes(10, 20, reach=0)
    assert (project(points, normals, torch.zeros(10)) == 0).all()
    assert (project(points, torch.zeros_like(normals), torch.ones(10)) == 0).all()


@pytest.mark.parametrize(
    ("project", "reference", "atol"), [(project_linf, projection_linf, 1e-6), (project_l2, projection_l2, 1e-5)]
)
@pytest.mark.parametrize("coordinates", [64, 3072])
def test_perturbations_are_those_of_the_reference(
    project: Projection, reference: Projection, atol: float, coordinates: int
) -> None:
    """The reference runs in float64: its cumulative sums lose digits in float32."""
    points, normals, gaps = hyperplanes(64, coordinates, reach=0.15)
    offsets = (normals.double() * points.double()).sum(1) - gaps.double()
    expected = reference(points.double(), normals.double(), offsets)
    torch.testing.assert_close(project(points, normals, gaps).double(), expected, rtol=0, atol=atol)


@both_norms
def test_a_row_has_the_same_bits_alone_and_beside_rows_that_take_longer(project: Projection) -> None:
    points, normals, gaps = hyperplanes(30, 64, reach=0.6)
    together = project(points, normals, gaps)
    alone = [project(*rows) for rows in zip(points.split(1), normals.split(1), gaps.split(1), strict=True)]
    assert torch.equal(together, torch.cat(alone))
