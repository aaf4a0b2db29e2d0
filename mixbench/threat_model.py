"""What the attacker may do: a norm and a radius in [0, 1] pixel units."""

import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from mixbench.errors import InvalidInputError, UnknownNameError

# Fraction reads "1e999999999" too, and would fill the memory with its digits.
_NUMBER = re.compile(
    r"[+-]?(\d{1,300}(/\d{1,300})?|(\d{1,50}\.?\d{0,50}|\.\d{1,50})(e[+-]?\d{1,2})?)", re.ASCII | re.IGNORECASE
)
_TOP_GREY_LEVEL = 255


class Norm(StrEnum):
    """The distance in which a perturbation is measured."""

    LINF = "Linf"
    L2 = "L2"
    L1 = "L1"

    @classmethod
    def parse(cls, text: str) -> "Norm":
        """Return the norm called `text`, in any case; raises UnknownNameError."""
        for norm in cls:
            if norm.value.lower() == text.strip().lower():
                return norm
        raise UnknownNameError("norm", text, [norm.value for norm in cls])

    def diameter(self, dimensions: int) -> float:
        """Return the largest distance between two images of `dimensions` values in [0, 1]."""
        return {Norm.LINF: 1.0, Norm.L2: dimensions**0.5, Norm.L1: float(dimensions)}[self]


def parse_eps(text: str) -> Fraction:
    """Return a radius such as "8/255", "0.5" or "2" exactly; raises InvalidInputError unless it is above 0."""
    try:
        eps = Fraction(text.strip() if _NUMBER.fullmatch(text.strip()) else "not a number")
    except (ValueError, ZeroDivisionError):
        raise InvalidInputError(
            f"eps {text!r} is not a number: give a fraction or a decimal in [0, 1] pixel units, such as 8/255 or 0.5"
        ) from None
    if eps <= 0:
        raise InvalidInputError(f"eps {text} is not above 0: give the radius in [0, 1] pixel units, such as 8/255")
    return eps


@dataclass(frozen=True, order=True)
class ThreatModel:
    """A ball of radius `eps` in `norm` around the clean image, cut with the box [0, 1].

    Attributes:
        norm: The distance.
        eps: The radius in [0, 1] pixel units, exact: 8/255 and 0.031 are different threat models.
    """

    norm: Norm
    eps: Fraction

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise InvalidInputError(f"eps {self.eps} is not above 0: give the radius in [0, 1] pixel units")
        if self.norm is Norm.LINF and self.eps > 1:
            guess = (
                f" (did you mean {self.eps}/255?)" if self.eps.denominator == 1 and self.eps <= _TOP_GREY_LEVEL else ""
            )
            raise InvalidInputError(
                f"eps {self.eps} is over 1, the whole range of a pixel: give it in [0, 1] pixel units{guess}"
            )

    def __str__(self) -> str:
        return f"{self.norm.value} {self.eps}"

    @classmethod
    def parse(cls, text: str) -> "ThreatModel":
        """Return the threat model written as "Linf 8/255"; raises InvalidInputError or UnknownNameError."""
        norm, separator, eps = text.strip().partition(" ")
        if not separator:
            raise InvalidInputError(f"threat model {text!r} has no radius: write a norm and an eps, such as Linf 8/255")
        return cls(Norm.parse(norm), parse_eps(eps))

    def check_fits(self, dimensions: int) -> None:
        """Raise InvalidInputError if the ball covers every image of `dimensions` values."""
        diameter = self.norm.diameter(dimensions)
        if self.eps > diameter:
            raise InvalidInputError(
                f"eps {self.eps} is over {diameter:g}, the largest {self.norm.value} distance between two images of"
                f" {dimensions} values in [0, 1]: give a smaller eps"
            )

    def tolerance(self) -> float:
        """Return by how much float32 rounding may carry a projected image outside the ball.

        Linf projections round once per pixel; L2 and L1 sum over all pixels, so their error grows with eps.
        """
        relative = {Norm.LINF: 0.0, Norm.L2: 1e-5, Norm.L1: 1e-4}[self.norm]
        return 1e-6 + relative * float(self.eps)
