from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbench.errors import InvalidInputError, MixbenchError, UnknownNameError
from mixbench.threat_model import Norm, ThreatModel, parse_eps

radii = st.fractions(min_value=0, max_value=1).filter(bool)
large_radii = st.fractions(min_value=0, max_value=10**6).filter(bool)
threat_models = st.builds(ThreatModel, st.just(Norm.LINF), radii) | st.builds(
    ThreatModel, st.sampled_from([Norm.L2, Norm.L1]), large_radii
)


@given(threat_models)
def test_what_is_printed_is_parsed_back(threat_model: ThreatModel) -> None:
    assert ThreatModel.parse(str(threat_model)) == threat_model


@given(large_radii)
def test_a_radius_is_parsed_back_exactly(eps: Fraction) -> None:
    assert parse_eps(f" {eps} ") == eps


@pytest.mark.parametrize(
    ("text", "eps"),
    [
        ("8/255", Fraction(8, 255)),
        ("0.031", Fraction(31, 1000)),
        ("+.5", Fraction(1, 2)),
        ("2.", Fraction(2)),
        ("1e-3", Fraction(1, 1000)),
        ("16/510", Fraction(8, 255)),
    ],
)
def test_a_radius_is_read_exactly(text: str, eps: Fraction) -> None:
    assert parse_eps(text) == eps


def test_8_255_and_0_031_are_different_threat_models() -> None:
    exact, rounded = ThreatModel.parse("Linf 8/255"), ThreatModel.parse("Linf 0.031")
    assert exact != rounded
    assert (str(exact), str(rounded)) == ("Linf 8/255", "Linf 31/1000")


@pytest.mark.parametrize("text", ["linf 8/255", "LINF  8/255 ", "Linf 16/510"])
def test_case_blanks_and_common_factors_do_not_matter(text: str) -> None:
    assert ThreatModel.parse(text) == ThreatModel(Norm.LINF, Fraction(8, 255))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "eps 0 is not above 0"),
        ("0/255", "eps 0/255 is not above 0"),
        ("-8/255", "eps -8/255 is not above 0"),
        ("nan", "eps 'nan' is not a number"),
        ("inf", "eps 'inf' is not a number"),
        ("8/0", "eps '8/0' is not a number"),
        ("8/255/2", "eps '8/255/2' is not a number"),
        ("", "eps '' is not a number"),
        ("eight", "eps 'eight' is not a number: give a fraction or a decimal .* such as 8/255 or 0.5"),
        # Python would compute all these digits.
        ("1e999999999", "eps '1e999999999' is not a number"),
        ("1_0", "eps '1_0' is not a number"),
    ],
)
def test_a_radius_that_is_none_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        parse_eps(text)


@pytest.mark.parametrize("eps", [Fraction(0), Fraction(-1, 255)])
def test_no_threat_model_has_an_empty_ball(eps: Fraction) -> None:
    with pytest.raises(InvalidInputError, match=f"eps {eps} is not above 0"):
        ThreatModel(Norm.L2, eps)


def test_linf_8_suggests_8_255() -> None:
    with pytest.raises(InvalidInputError, match=r"eps 8 is over 1, .* \(did you mean 8/255\?\)$"):
        ThreatModel.parse("Linf 8")


@pytest.mark.parametrize("eps", ["3/2", "256/255", "256"])
def test_nothing_is_suggested_where_nothing_is_near(eps: str) -> None:
    with pytest.raises(InvalidInputError, match=f"eps {eps} is over 1, .* pixel units$"):
        ThreatModel.parse(f"Linf {eps}")


def test_linf_1_is_the_largest() -> None:
    assert ThreatModel.parse("Linf 1").eps == 1


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("L3 1/2", UnknownNameError, "unknown norm 'L3': did you mean 'L2' or 'L1'"),
        ("inf 8/255", UnknownNameError, "unknown norm 'inf': did you mean 'Linf'"),
        ("Linf", InvalidInputError, "threat model 'Linf' has no radius: write a norm and an eps, such as Linf 8/255"),
        ("8/255", InvalidInputError, "threat model '8/255' has no radius"),
        ("", InvalidInputError, "threat model '' has no radius"),
    ],
)
def test_a_threat_model_that_is_none_is_refused_by_name(text: str, error: type[MixbenchError], message: str) -> None:
    with pytest.raises(error, match=message):
        ThreatModel.parse(text)


@pytest.mark.parametrize("norm", Norm)
def test_the_diameter_is_the_distance_of_black_and_white(norm: Norm) -> None:
    order = {Norm.LINF: np.inf, Norm.L2: 2, Norm.L1: 1}[norm]
    assert norm.diameter(192) == pytest.approx(np.linalg.norm(np.ones(192), order))


@pytest.mark.parametrize(
    ("fits", "too_large"), [("L2 8", "L2 8.01"), ("L1 64", "L1 64.01")], ids=["L2 over sqrt(d)", "L1 over d"]
)
def test_a_ball_that_covers_every_image_is_refused(fits: str, too_large: str) -> None:
    ThreatModel.parse(fits).check_fits(64)
    with pytest.raises(InvalidInputError, match=r"is over (8|64), the largest L[12] distance between two images of 64"):
        ThreatModel.parse(too_large).check_fits(64)


@pytest.mark.parametrize(
    ("text", "tolerance"), [("Linf 1", 1e-6), ("L2 1/2", 6e-6), ("L2 2", 2.1e-5), ("L1 10", 1.001e-3)]
)
def test_the_tolerance_grows_with_eps_where_pixels_are_summed(text: str, tolerance: float) -> None:
    assert ThreatModel.parse(text).tolerance() == pytest.approx(tolerance)
