"""From records to boards: which records answer which line of a protocol, and how the models rank."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from mixbench.leaderboard.cards import Card, Submitted
from mixbench.leaderboard.probes import Decoding, Key, decodings, recognitions
from mixbench.leaderboard.protocols import BoardProtocol, Evaluations, NamedProtocol
from mixbench.leaderboard.ranking import RankRange, area_under_curve, rank_ranges
from mixbench.leaderboard.reading import Contents
from mixbench.probe_record import ProbeRecord
from mixbench.records import EvaluationRecord
from mixbench.store import ROBUST, StoredVerdicts
from mixbench.threat_model import ThreatModel

State = Literal["current", "stale", "unlisted"]
"""Whether a record's hash is its checkpoint's ("current"), another ("stale"), or no such checkpoint is known."""


@dataclass(frozen=True, eq=False)
class Place:
    """One record in a ranking; a stale one has no rank."""

    verdicts: StoredVerdicts
    state: State
    rank: RankRange | None

    @property
    def record(self) -> EvaluationRecord:
        """The record itself."""
        return self.verdicts.record


@dataclass(frozen=True, eq=False)
class Ranking:
    """All records of one protocol hash, the most robust first."""

    places: tuple[Place, ...]

    @property
    def first(self) -> EvaluationRecord:
        """Any record: all agree on dataset, attack, threat model and protocol."""
        return self.places[0].record

    @property
    def threat_model(self) -> ThreatModel:
        """The threat model of all of them."""
        return self.first.threat_model.value

    @property
    def ranked(self) -> int:
        """How many models have a rank."""
        return sum(place.rank is not None for place in self.places)

    @cached_property
    def by_model(self) -> Mapping[tuple[str, str], Place]:
        """The places by name and hash of the model."""
        return {model_key(place.record): place for place in self.places}


@dataclass(frozen=True)
class Setting:
    """What one table of a board is about: a threat model, and the name of the examples that were attacked."""

    threat_model: ThreatModel
    subset: str


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a protocol with the rankings that answer it, by rising eps."""

    evaluations: Evaluations
    rankings: tuple[Ranking, ...]

    @cached_property
    def by_threat_model(self) -> Mapping[ThreatModel, Ranking]:
        """The rankings by threat model."""
        return {ranking.threat_model: ranking for ranking in self.rankings}

    def ranking(self, setting: Setting) -> Ranking | None:
        """Return the ranking in a setting, or None where this line has none."""
        return self.by_threat_model.get(setting.threat_model) if self.evaluations.subset == setting.subset else None

    def curve(self, model: tuple[str, str]) -> "Curve | None":
        """Return the robust accuracy of a model against eps, or None where it was not evaluated."""
        found = [ranking.by_model[model] for ranking in self.rankings if model in ranking.by_model]
        return Curve(tuple(found), complete=len(found) == len(self.evaluations.eps)) if found else None


@dataclass(frozen=True, eq=False)
class Curve:
    """The places of one model along the radii of a line; `complete` if none is missing."""

    places: tuple[Place, ...]
    complete: bool

    @property
    def eps(self) -> tuple[float, ...]:
        """The radii, from 0."""
        return (0.0, *(float(place.record.threat_model.eps) for place in self.places))

    @property
    def rates(self) -> tuple[float, ...]:
        """The robust accuracies, that at 0 being the clean one."""
        return (self.places[0].record.clean.rate, *(place.record.robust.rate for place in self.places))

    @property
    def area(self) -> float:
        """The mean robust accuracy over all radii, in [0, 1]."""
        return area_under_curve(self.eps, self.rates)


@dataclass(frozen=True, eq=False)
class Board:
    """One protocol, and what the records say under it.

    Attributes:
        lines: One for each of `protocol.evaluations` that has records, in that order.
        others: Rankings of the same dataset under other protocols, which are never mixed with those of the lines.
    """

    name: str
    protocol: BoardProtocol
    lines: tuple[Line, ...]
    others: tuple[Ranking, ...]

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """Every setting that has records, the headline's first, then by norm, radius and the order of the protocol."""
        found = {Setting(at, line.evaluations.subset): None for line in self.lines for at in line.by_threat_model}
        headline = Setting(self.protocol.headline.threat_model, self.protocol.headline.subset)
        return tuple(sorted(found, key=lambda setting: (setting != headline, _by_norm(setting.threat_model))))

    def deciding(self, setting: Setting) -> Ranking:
        """Return the ranking by the strongest attack run in `setting`."""
        return [ranking for line in self.lines if (ranking := line.ranking(setting)) is not None][-1]

    @cached_property
    def models(self) -> tuple[tuple[str, str], ...]:
        """Name and hash of every model with a record, the order of the headline first."""
        rankings = [self.deciding(setting) for setting in self.settings]
        rankings += [ranking for line in self.lines for ranking in line.rankings]
        return tuple(dict.fromkeys(key for ranking in rankings for key in ranking.by_model))


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """All boards, what the checkpoints and their authors say by name, and what was left out.

    Attributes:
        elsewhere: Rankings of datasets that have no board.
        recognitions: What checkpoints still recognise, by dataset, name and hash.
        decodings: What decoders gave back.
    """

    boards: tuple[Board, ...]
    elsewhere: tuple[Ranking, ...]
    cards: Mapping[str, Card]
    submitted: Mapping[str, Submitted]
    faults: tuple[str, ...]
    recognitions: Mapping[Key, ProbeRecord]
    decodings: tuple[Decoding, ...]

    @property
    def rankings(self) -> tuple[Ranking, ...]:
        """Every ranking, those of the boards first."""
        boards = [(*itertools.chain.from_iterable(line.rankings for line in b.lines), *b.others) for b in self.boards]
        return (*itertools.chain.from_iterable(boards), *self.elsewhere)


def model_key(record: EvaluationRecord) -> tuple[str, str]:
    """Return name and hash of the model of a record."""
    return record.model.name, record.model.sha256


def rank(contents: Contents) -> Leaderboard:
    """Return the boards of `contents`: pure, the same for the same records in any order."""
    by_hash: dict[str, list[StoredVerdicts]] = {}
    for verdicts in contents.verdicts:
        by_hash.setdefault(verdicts.record.protocol.hash, []).append(verdicts)
    rankings = [_ranking(by_hash[digest], contents.cards) for digest in sorted(by_hash)]
    rankings.sort(key=_order)
    boards: list[Board] = []
    for named in contents.protocols:
        mine = [ranking for ranking in rankings if ranking.first.dataset.name == named.protocol.dataset]
        boards.append(_board(named, mine))
    datasets = {named.protocol.dataset for named in contents.protocols}
    elsewhere = tuple(ranking for ranking in rankings if ranking.first.dataset.name not in datasets)
    return Leaderboard(
        tuple(boards), elsewhere, contents.cards, contents.submitted, contents.faults,
        recognitions(contents.probes), decodings(contents.probes, contents.pictures),
    )  # fmt: skip


def _ranking(found: Sequence[StoredVerdicts], cards: Mapping[str, Card]) -> Ranking:
    ordered = sorted(found, key=_most_robust_first)
    states: list[State] = [_state(verdicts.record, cards) for verdicts in ordered]
    fresh = [verdicts for verdicts, state in zip(ordered, states, strict=True) if state != "stale"]
    ranges = iter(rank_ranges(np.stack([verdicts.fate == ROBUST for verdicts in fresh])) if fresh else ())
    places = [
        Place(verdicts, state, None if state == "stale" else next(ranges))
        for verdicts, state in zip(ordered, states, strict=True)
    ]
    return Ranking(tuple(sorted(places, key=lambda place: place.rank is None)))


def _state(record: EvaluationRecord, cards: Mapping[str, Card]) -> State:
    card = cards.get(record.model.name)
    if card is None:
        return "unlisted"
    return "current" if card.stated.sha256 == record.model.sha256 else "stale"


def _most_robust_first(verdicts: StoredVerdicts) -> tuple[int, int, str, str]:
    record = verdicts.record
    return -record.robust.correct, -record.clean.correct, *model_key(record)


def _board(named: NamedProtocol, rankings: Iterable[Ranking]) -> Board:
    """Sort the rankings of one dataset into the lines of its protocol and the others."""
    groups: dict[int, dict[str, list[Ranking]]] = {}
    others: list[Ranking] = []
    for ranking in rankings:
        index = named.protocol.evaluations_of(ranking.first)
        if index is None:
            others.append(ranking)
        else:
            groups.setdefault(index, {}).setdefault(_attack_key(ranking), []).append(ranking)
    lines: list[Line] = []
    for index in sorted(groups):
        # Another version of an attack library is another protocol: the one with the most records makes the line.
        chosen, *rest = sorted(groups[index].items(), key=lambda item: (-sum(len(r.places) for r in item[1]), item[0]))
        lines.append(Line(named.protocol.evaluations[index], tuple(chosen[1])))
        others.extend(ranking for _, group in rest for ranking in group)
    return Board(named.name, named.protocol, tuple(lines), tuple(sorted(others, key=_order)))


def _attack_key(ranking: Ranking) -> str:
    return json.dumps(ranking.first.attack.model_dump(mode="json"), sort_keys=True)


def _order(ranking: Ranking) -> tuple[str, str, str, tuple[bool, str, float], str]:
    first = ranking.first
    return (
        first.dataset.name,
        first.dataset.fingerprint,
        first.attack.name,
        _by_norm(ranking.threat_model),
        first.protocol.hash,
    )


def _by_norm(threat_model: ThreatModel) -> tuple[bool, str, float]:
    """Linf comes first, as it does in the field."""
    return threat_model.norm != "Linf", threat_model.norm.value, float(threat_model.eps)
