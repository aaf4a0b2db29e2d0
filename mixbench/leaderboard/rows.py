"""The rows of a board's table: a model under a threat model, with all that a reader may sort or filter by."""

from collections.abc import Mapping
from dataclasses import dataclass

from mixbench.leaderboard.board import Board, Curve, Leaderboard, Place, Setting
from mixbench.leaderboard.cards import family
from mixbench.leaderboard.numbers import attack_title, threat_model_text
from mixbench.probe_record import ProbeRecord
from mixbench.records import AttackIdentity, EvaluationRecord


@dataclass(frozen=True, eq=False)
class Row:
    """A model in one setting.

    Attributes:
        place: Its place in the ranking that decides there, by the strongest attack run.
        attacked: Its places by attack, None where an attack was not run.
        recipe: How it was trained; None where no card says so.
        curve: Its robust accuracy along the radii of the norm, by the strongest attack that has a whole curve of it.
        recognition: What it recognises of shuffled images; None where it was not probed.
    """

    setting: Setting
    place: Place
    attacked: Mapping[str, Place | None]
    recipe: str | None
    curve: Curve | None
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
    """Return a row for each model in each setting, the headline's first, each group by rank."""
    return tuple(
        _row(board, leaderboard, setting, place)
        for setting in board.settings
        for place in board.deciding(setting).places
    )


def _row(board: Board, leaderboard: Leaderboard, setting: Setting, place: Place) -> Row:
    name, digest = place.record.model.name, place.record.model.sha256
    attacked: dict[str, Place | None] = dict.fromkeys(attacks_of(board))
    curve: Curve | None = None
    for line in board.lines:
        if (ranking := line.ranking(setting)) is not None:
            attacked[line.evaluations.attack] = ranking.by_model.get((name, digest))
        found = line.curve((name, digest)) if line.evaluations.norm is setting.threat_model.norm else None
        if found is not None and found.complete and len(found.places) > 1:
            curve = found
    card = leaderboard.cards.get(name)
    submitted = leaderboard.submitted.get(name)
    recipe = card.stated.recipe if card is not None else submitted.recipe if submitted is not None else None
    recognition = leaderboard.recognitions.get((place.record.dataset.name, name, digest))
    return Row(setting, place, attacked, recipe, curve, recognition)


def deciding_attack(board: Board, setting: Setting) -> str:
    """Return for people which attack decides in `setting`."""
    return attack_title(board.deciding(setting).first.attack)


def setting_text(board: Board, setting: Setting) -> str:
    """Return a setting for people: how many images are told where the board has several sets of them."""
    text = threat_model_text(setting.threat_model)
    if len({other.subset for other in board.settings}) == 1:
        return text
    return f"{text}, {board.protocol.subsets[setting.subset].n:,} images"
