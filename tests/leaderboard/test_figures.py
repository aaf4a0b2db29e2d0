from fractions import Fraction

import pytest

from mixbench.leaderboard import figures


@pytest.mark.parametrize(
    ("grid", "texts", "unit"),
    [
        (["1/1020", "1/255", "8/255"], ["0.25", "1", "8"], ", in 255ths"),
        (["1/20", "1/10"], ["1/20", "1/10"], ""),
        (["1/255", "1/10"], ["1/255", "1/10"], ""),
    ],
)
def test_an_axis_counts_255ths_where_all_its_radii_do(grid: list[str], texts: list[str], unit: str) -> None:
    assert figures._radii([Fraction(eps) for eps in grid]) == (texts, unit)
