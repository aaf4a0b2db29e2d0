"""The page: one HTML file that needs no network, reads well without JavaScript, and shows strangers' text as text."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mixbench.leaderboard import numbers
from mixbench.leaderboard.board import Board, Leaderboard, Line, Place, Setting
from mixbench.leaderboard.cards import Card, Submitted
from mixbench.leaderboard.comparing import compared_lines
from mixbench.leaderboard.figures import Figure, curves, scatter
from mixbench.leaderboard.probes import accuracy_by_tile, baselines_text, decoder_text, score, tile_text
from mixbench.leaderboard.ranking import RankRange
from mixbench.leaderboard.rows import Row, attacks_of, deciding_attack, proof, rows_of, setting_text
from mixbench.leaderboard.vendored import datatables_script, library
from mixbench.probe_record import ProbeRecord
from mixbench.records import Accuracy, EvaluationRecord

_TEMPLATES = Path(__file__).parent / "templates"
_MIXING_TITLES = {"frozen_smooth": "frozen, smoothed"}
Key = tuple[str, str]


@dataclass(frozen=True, eq=False)
class _BoardView:
    """A board as the template sees it."""

    board: Board
    leaderboard: Leaderboard

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return rows_of(self.board, self.leaderboard)

    @cached_property
    def attacks(self) -> dict[str, str]:
        """Titles by name, the strongest first: a narrow screen cuts the others off."""
        return {name: numbers.attack_title(attack) for name, attack in reversed(attacks_of(self.board).items())}

    @property
    def headline(self) -> Setting:
        return self.board.settings[0]

    @cached_property
    def subsets(self) -> list[str]:
        """The sets of examples that were attacked, the headline's first."""
        return list(dict.fromkeys(setting.subset for setting in self.board.settings))

    @property
    def images(self) -> str:
        """How many images those are, such as "10,000 and 1,000 (test_1k)"."""
        known = self.board.protocol.subsets
        return " and ".join(f"{known[name].n:,}{'' if name == 'all' else f' ({name})'}" for name in self.subsets)

    @cached_property
    def curves(self) -> list[tuple[Line, Figure]]:
        """The strongest attack with a whole grid first."""
        lines = [line for line in self.board.lines if len(line.rankings) > 1]
        strongest_first = sorted(lines, key=lambda line: list(self.attacks).index(line.evaluations.attack))
        strongest_first.sort(key=lambda line: line.evaluations.norm is not self.headline.threat_model.norm)
        return [(line, curves(line, self.board, dashed=self._dashed)) for line in strongest_first]

    @property
    def scatter(self) -> Figure:
        return scatter(self.board.deciding(self.headline).places, self.board, dashed=self._dashed)

    @property
    def _dashed(self) -> frozenset[str]:
        """Models trained otherwise than by the standard recipe."""
        return frozenset(row.record.model.name for row in self.rows if row.recipe not in {None, "standard"})

    def decided_by(self, setting: Setting) -> str:
        return deciding_attack(self.board, setting)

    def text(self, setting: Setting) -> str:
        return setting_text(self.board, setting)

    def choices(self, field: str) -> list[str]:
        """Return what a filter offers."""
        values = {
            "family": [row.family for row in self.rows],
            "mixing": [row.record.model.mixing for row in self.rows],
            "recipe": [row.recipe for row in self.rows if row.recipe is not None],
        }[field]
        return sorted(set(values))


@dataclass(frozen=True, eq=False)
class _ModelView:
    """A model as the template sees it: its card, its places, and what is wrong with any of them."""

    key: Key
    places: tuple[Place, ...]
    card: Card | None
    submitted: Submitted | None
    recognition: ProbeRecord | None

    @property
    def state(self) -> str:
        return self.places[0].state

    @property
    def warnings(self) -> list[str]:
        return sorted({warning for place in self.places for warning in place.record.warnings})

    @property
    def proof(self) -> str:
        return proof(self.places[0].record)

    @property
    def commands(self) -> list[Place]:
        """The places whose commands make all others too: the largest radius of each grid."""
        longest: dict[tuple[str, str, str, int], Place] = {}
        for place in self.places:
            record = place.record
            key = (record.dataset.fingerprint, record.attack.name, record.threat_model.norm.value, record.protocol.seed)
            if key not in longest or len(record.protocol.eps_grid) > len(longest[key].record.protocol.eps_grid):
                longest[key] = place
        return list(longest.values())

    @property
    def groups(self) -> list[list[Place]]:
        """The places by what the heading of a group tells once for all of them."""
        groups: dict[tuple[object, ...], list[Place]] = {}
        for place in self.places:
            groups.setdefault(_told_once(place.record), []).append(place)
        return list(groups.values())


def html_page(leaderboard: Leaderboard) -> str:
    """Return index.html."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": numbers.percent,
        "accuracy": _accuracy,
        "interval": numbers.interval_text,
        "radius": numbers.radius,
        "threat_model": numbers.threat_model_text,
        "attack": numbers.attack_title,
        "anchor": model_anchor,
        "mixing": _mixing_title,
        "rank": _rank_text,
        "tiles": _tiles_text,
        "breakable": _breakable,
        "short": "{:g}".format,
    }
    script = datatables_script((_TEMPLATES / "page.js").read_text(encoding="utf-8").strip().removesuffix(";"))
    return environment.get_template("page.html").render(
        boards=[_BoardView(board, leaderboard) for board in leaderboard.boards if board.lines],
        empty=[board for board in leaderboard.boards if not board.lines],
        others=[ranking for board in leaderboard.boards for ranking in board.others] + list(leaderboard.elsewhere),
        models=_models(leaderboard),
        score=score,
        baselines=baselines_text,
        decoder=decoder_text,
        leaderboard=leaderboard,
        command=numbers.command,
        library=library(),
        policy=_policy(script),
        # Both are ours; everything else on the page is escaped.
        style=Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        data=Markup(_data(leaderboard)),  # noqa: S704
    )


def model_anchor(key: Key) -> str:
    """Return the id of a model's section."""
    return f"model-{re.sub(r'[^A-Za-z0-9_.-]', '_', key[0])}-{key[1][:8]}"


def _accuracy(accuracy: Accuracy) -> Markup:
    return _accuracy_of(accuracy.correct, accuracy.total)


@cache
def _accuracy_of(correct: int, total: int) -> Markup:
    # The page writes the same few counts thousands of times.
    accuracy = Accuracy(correct=correct, total=total)
    return Markup(f"{numbers.percent(accuracy.rate)}<small>{numbers.interval_text(accuracy)}</small>")  # noqa: S704


def _told_once(record: EvaluationRecord) -> tuple[object, ...]:
    made = record.provenance
    how = record.attack.implementation, made.mixbench, made.packages.get("torch"), made.device, made.started.date()
    return numbers.attack_title(record.attack), record.clean, *how


def _mixing_title(mixing: str) -> str:
    return _MIXING_TITLES.get(mixing, mixing)


def _rank_text(ranks: RankRange | None) -> str:
    return "\N{EN DASH}" if ranks is None else str(ranks).replace("-", "\N{EN DASH}")


def _breakable(name: str) -> Markup:
    """Return a name, escaped, that may be broken after its underscores and dots."""
    return Markup("<wbr>").join(re.split(r"(?<=[_.])", name))


def _models(leaderboard: Leaderboard) -> list[_ModelView]:
    places: dict[Key, list[Place]] = {}
    for ranking in leaderboard.rankings:
        for place in ranking.places:
            places.setdefault((place.record.model.name, place.record.model.sha256), []).append(place)
    return [
        _ModelView(
            key,
            tuple(places[key]),
            leaderboard.cards.get(key[0]),
            leaderboard.submitted.get(key[0]),
            leaderboard.recognitions.get((places[key][0].record.dataset.name, *key)),
        )
        for key in sorted(places)
    ]


def _tiles_text(record: ProbeRecord) -> str:
    """Return the accuracies within tiles, such as "92.3 with none, 77.0 with 2 x 2, ..."."""
    found = accuracy_by_tile(record)
    return ", ".join(f"{numbers.percent(rate)} with {tile_text(side)}" for side, rate in found)


def _policy(script: str) -> str:
    """Return a Content-Security-Policy: this one script, no network, no frames, no forms."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none';"
        " form-action 'none'"
    )


def _data(leaderboard: Leaderboard) -> str:
    """Return what the page compares models by, as JSON that cannot end its script element."""
    content: Mapping[str, object] = {
        board.name: {"models": [name for name, _ in board.models], "lines": compared_lines(board)}
        for board in leaderboard.boards
        if board.lines
    }
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
