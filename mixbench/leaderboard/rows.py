"""The rows of a board's table: a model under a threat model, with all that a reader may sort or filter by."""

from collections.abc import Mapping
from dataclasses import dataclass

from mixbench.leaderboard.board import Board, Leaderboard, Place, Ranking
from mixbench.leaderboard.cards import family
from mixbench.leaderboard.numbers import attack_title
from mixbench.probe_record import ProbeRecord
from mixbench.records import AttackIdentity, EvaluationRecord
from mixbench.threat_model import ThreatModel


@dataclass(frozen=True, eq=False)
class Row:
    """A model under one threat model.

    Attributes:
        place: Its place in the ranking that decides there, by the strongest attack run.
        attacked: Its places by attack, None where an attack was not run.
        recipe: How it was trained; None where no card says so.
        area: Mean robust accuracy over the radii of the norm, in [0, 1], and by which attack; None without a whole
            curve.
        recognition: What it recognises of shuffled images; None where it was not probed.
    """

    threat_model: ThreatModel
    place: Place
    attacked: Mapping[str, Place | None]
    recipe: str | None
    area: tuple[float, AttackIdentity] | None
    recognition: ProbeRecord | None

    @property
    def record(self) -> EvaluationRecord:
        """The record that decides."""
        return self.place.record

    @property
    def family(self) -> str:
        """The architecture without its mixing."""
        return family(self.record.model.name)


def proof(record: EvaluationRecord) -> str:
    """Return what loading the checkpoint proved of its frozen filters."""
    if record.model.mixing == "foreign":
        return "no card"
    if record.model.parameters.frozen == 0:
        return "nothing frozen"
    return f"redrawn from seed {record.model.filter_seed}"


def attacks_of(board: Board) -> dict[str, AttackIdentity]:
    """Return the attacks of a board by name, the weakest first."""
    return {line.evaluations.attack: line.rankings[0].first.attack for line in board.lines}


def rows_of(board: Board, leaderboard: Leaderboard) -> tuple[Row, ...]:
    """Return a row for each model under each threat model, the headline's first, each group by rank."""
    return tuple(
        _row(board, leaderboard, threat_model, place)
        for threat_model in board.threat_models
        for place in board.deciding(threat_model).places
    )


def _row(board: Board, leaderboard: Leaderboard, threat_model: ThreatModel, place: Place) -> Row:
    name, digest = place.record.model.name, place.record.model.sha256
    attacked: dict[str, Place | None] = dict.fromkeys(attacks_of(board))
    area: tuple[float, AttackIdentity] | None = None
    for line in board.lines:
        ranking: Ranking | None = line.by_threat_model.get(threat_model)
        if ranking is not None:
            attacked[line.evaluations.attack] = ranking.by_model.get((name, digest))
        curve = line.curve((name, digest)) if line.evaluations.norm is threat_model.norm else None
        if curve is not None and curve.complete and len(curve.places) > 1:
            area = curve.area, place_attack(curve.places[0])
    card = leaderboard.cards.get(name)
    submitted = leaderboard.submitted.get(name)
    recipe = card.stated.recipe if card is not None else submitted.recipe if submitted is not None else None
    recognition = leaderboard.recognitions.get((place.record.dataset.name, name, digest))
    return Row(threat_model, place, attacked, recipe, area, recognition)


def place_attack(place: Place) -> AttackIdentity:
    """Return the attack of a place."""
    return place.record.attack


def deciding_attack(board: Board, threat_model: ThreatModel) -> str:
    """Return for people which attack decides under `threat_model`."""
    return attack_title(board.deciding(threat_model).first.attack)
