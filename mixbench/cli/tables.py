"""Records and parameter counts as tables for a terminal."""

from fractions import Fraction

from rich.console import Console
from rich.table import Table

from mixbench.probe_record import Estimate, ProbeRecord
from mixbench.records import Accuracy, EvaluationRecord
from mixbench.statistics import wilson_interval

_PLAIN_WIDTH = 200


def console() -> Console:
    """Return the console for results: wide and without colour where standard output is not a terminal."""
    # Names of folders and warnings of libraries may hold brackets or colons, which are no markup.
    plain = Console(markup=False, emoji=False)
    return plain if plain.is_terminal else Console(width=_PLAIN_WIDTH, no_color=True, markup=False, emoji=False)


def percent(accuracy: Accuracy) -> str:
    """Return a rate with its 95% Wilson interval, in percent."""
    interval = wilson_interval(accuracy.correct, accuracy.total)
    return f"{accuracy.rate:.2%} [{interval.low:.2%}, {interval.high:.2%}]".replace("%", "")


def radius(eps: Fraction) -> str:
    """Return eps as a fraction and, where that helps, in 255ths."""
    scaled = eps * 255
    if eps.denominator not in {1, 255} and scaled.denominator == 1:
        return f"{eps} ({scaled}/255)"
    return str(eps)


def summary(records: tuple[EvaluationRecord, ...]) -> Table:
    """Return what the records of one run say: a row for each eps."""
    first = records[0]
    table = Table(
        title=f"{first.model.name} on {first.dataset.name} ({first.dataset.split}, {first.dataset.n} examples,"
        f" {first.dataset.subset}), {first.attack.name} {first.attack.version}",
        caption="Accuracies in percent with 95% Wilson intervals; robust counts examples right clean and attacked.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("threat model")
    table.add_column("clean")
    table.add_column("robust")
    for stage in first.broken_by:
        table.add_column(f"broken by {stage}", justify="right")
    table.add_column("seconds", justify="right")
    for record in records:
        table.add_row(
            f"{record.threat_model.norm.value} {radius(record.threat_model.eps)}",
            percent(record.clean),
            percent(record.robust),
            *(str(count) for count in record.broken_by.values()),
            f"{record.cost.seconds:.1f}",
        )
    return table


def details(record: EvaluationRecord) -> Table:
    """Return everything else a record says, a row a field."""
    table = Table(show_header=False)
    cost, provenance = record.cost, record.provenance
    mixing = record.model.mixing
    seed = "" if record.model.filter_seed is None else f", filter seed {record.model.filter_seed}"
    rows = {
        "record": record.id,
        "model": f"{record.model.name} ({mixing}{seed}), SHA-256 {record.model.sha256}",
        "parameters": f"{record.model.parameters.trained} trained, {record.model.parameters.frozen} frozen",
        "dataset fingerprint": record.dataset.fingerprint,
        "attack": f"{record.attack.implementation}: "
        + ", ".join(f"{name} {value}" for name, value in record.attack.parameters.items()),
        "protocol": f"{record.protocol.hash} (block size {record.protocol.block_size}, seed {record.protocol.seed},"
        f" eps grid {', '.join(str(eps) for eps in record.protocol.eps_grid)})",
        "cost": f"{cost.forwards} forwards, {cost.backwards} backwards, {cost.seconds:.1f} s, peak memory"
        f" {cost.peak_memory_bytes / 2**20:.0f} MiB",
        "borderline": f"{record.borderline} examples with a margin below 1e-4",
        "made by": f"mixbench {provenance.mixbench}, commit {provenance.commit or 'unknown'}"
        f"{' (dirty)' if provenance.dirty else ''}, Python {provenance.python}, "
        + ", ".join(f"{name} {version}" for name, version in provenance.packages.items()),
        "device": f"{provenance.device}, {provenance.precision}",
        "started": provenance.started.isoformat(),
        "warnings": "\n".join(record.warnings) or "none",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def probe_summary(record: ProbeRecord) -> Table:
    """Return what the record of a probe says: a row for each subject and permutation."""
    names = list(dict.fromkeys(name for measurement in record.measurements for name in measurement.metrics))
    table = Table(
        title=f"{record.model.name} on {record.dataset.name} ({record.dataset.split}, {record.dataset.n} examples,"
        f" {record.dataset.subset}), {record.probe.name}; 95% intervals over images",
    )
    for column in ("subject", "permutation", *names):
        table.add_column(column, justify="left" if column == "subject" else "right")
    for measurement in record.measurements:
        seed = measurement.permutation_seed
        cells = (_interval(name, measurement.metrics.get(name)) for name in names)
        table.add_row(measurement.subject, "" if seed is None else str(seed), *cells)
    return table


def _interval(name: str, found: Estimate | None) -> str:
    if found is None:
        return ""
    digits = {"mse": 5, "psnr": 2}.get(name, 3)
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
