"""Probe records on the boards: what checkpoints still recognise, and what decoders gave back, beside their controls."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mixbench.probe_record import ProbeRecord

Key = tuple[str, str, str]
"""Dataset, and name and hash of the model."""


@dataclass(frozen=True)
class Score:
    """A metric: of one permutation with its 95% interval over images, or the mean of several with their range."""

    value: float
    low: float
    high: float
    permutations: int


@dataclass(frozen=True, eq=False)
class Decoding:
    """The un-shuffle records of one protocol hash, in order of the models' names.

    Attributes:
        picture: The contact sheet's path from the pages; None where there is none.
    """

    records: tuple[ProbeRecord, ...]
    picture: str | None

    @property
    def first(self) -> ProbeRecord:
        """Any record: all agree on dataset, probe and protocol."""
        return self.records[0]


def score(record: ProbeRecord, subject: str, metric: str) -> Score | None:
    """Return a metric of a subject, or None where the record has none."""
    found = [measured.metrics[metric] for measured in record.of(subject) if metric in measured.metrics]
    if not found:
        return None
    if len(found) == 1:
        return Score(found[0].value, found[0].low, found[0].high, 1)
    values = [estimate.value for estimate in found]
    return Score(sum(values) / len(values), min(values), max(values), len(values))


def accuracy_by_tile(record: ProbeRecord) -> tuple[tuple[int, float], ...]:
    """Return sides of tiles and the accuracy, in [0, 1], on images shuffled within them; the mean over permutations."""
    found: dict[int, list[float]] = {}
    for measured in record.of("model"):
        for point in measured.curves.get("accuracy_by_tile", ()):
            found.setdefault(round(point.x), []).append(point.y.value)
    return tuple((side, sum(values) / len(values)) for side, values in found.items())


def tile_text(side: int) -> str:
    """Return a tile of `side` pixels for people; that of one pixel shuffles nothing."""
    return "none" if side <= 1 else f"{side} x {side}"


def decoder_text(record: ProbeRecord) -> str:
    """Return the size and training of the decoders of an un-shuffle record."""
    settings = {name: record.probe.parameters.get(name, "?") for name in ("depth", "width", "kernel", "epochs")}
    sizes = ", ".join(f"{name} {settings[name]}" for name in ("depth", "width", "kernel"))
    return f"{sizes}, {settings['epochs']} epochs"


def baselines_text(record: ProbeRecord) -> str:
    """Return the PSNR of what needs no decoder."""
    return ", ".join(
        f"{title} {found.value:.1f} dB"
        for subject, title in (("mean_image", "mean image"), ("identity", "no decoding"))
        if (found := score(record, subject, "psnr")) is not None
    )


def recognitions(probes: Iterable[ProbeRecord]) -> dict[Key, ProbeRecord]:
    """Return the recognize records by dataset and checkpoint.

    All of a dataset have one protocol hash, that of the most records, so that their scores can be compared.
    """
    found = [record for record in probes if record.probe.name == "recognize"]
    chosen: dict[str, tuple[int, str]] = {}
    for digest, group in _by_hash(found).items():
        dataset = group[0].dataset.name
        chosen[dataset] = max(chosen.get(dataset, (0, "")), (len(group), digest))
    return {
        (record.dataset.name, record.model.name, record.model.sha256): record
        for record in found
        if record.protocol.hash == chosen[record.dataset.name][1]
    }


def decodings(probes: Iterable[ProbeRecord], pictures: Mapping[str, str]) -> tuple[Decoding, ...]:
    """Return the un-shuffle records, those of one protocol together; `pictures` are paths by file name."""
    groups = _by_hash(record for record in probes if record.probe.name == "unshuffle").values()
    made = [Decoding(tuple(group), pictures.get(group[0].picture_name)) for group in groups]
    return tuple(sorted(made, key=lambda decoding: (decoding.first.dataset.name, decoding.first.protocol.hash)))


def _by_hash(records: Iterable[ProbeRecord]) -> Mapping[str, Sequence[ProbeRecord]]:
    groups: dict[str, list[ProbeRecord]] = {}
    for record in sorted(records, key=lambda record: (record.model.name, record.model.filter_seed or 0, record.id)):
        groups.setdefault(record.protocol.hash, []).append(record)
    return groups
