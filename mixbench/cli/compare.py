"""`mixbench compare`: two models on the same examples."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixbench.cli.options import AsJson

if TYPE_CHECKING:
    from rich.table import Table

    from mixbench.comparison import PairedComparison
    from mixbench.store import StoredEvaluation


def compare_records(
    record_a: Annotated[Path, typer.Argument(help="A run folder or its record.json.")],
    record_b: Annotated[Path, typer.Argument(help="Another, of the same examples and protocol.")],
    as_json: AsJson = False,
) -> None:
    """Compare two models example by example: which one alone is right, and what cost the other one the rest."""
    from mixbench.comparison import compare
    from mixbench.store import load_evaluation

    first, second = load_evaluation(record_a), load_evaluation(record_b)
    comparisons = [compare(first, second, outcome=outcome) for outcome in ("clean", "robust")]
    if as_json:
        names = {"first": first.record.id, "second": second.record.id}
        typer.echo(json.dumps(names | {found.outcome: _content(found) for found in comparisons}, indent=2))
        return
    from mixbench.cli.tables import console

    terminal = console()
    terminal.print(_counts(first, second, comparisons))
    terminal.print(_losses(comparisons[-1]))


def _content(found: "PairedComparison") -> dict[str, object]:
    return {
        "n": found.n,
        "both": found.both,
        "only_first": found.only_first,
        "only_second": found.only_second,
        "neither": found.neither,
        "difference": found.difference,
        "interval": {"low": found.interval.low, "high": found.interval.high, "confidence": 0.95},
        "mcnemar_p": found.p,
        "first_lost_to": dict(found.first_lost_to),
        "second_lost_to": dict(found.second_lost_to),
    }


def _counts(first: "StoredEvaluation", second: "StoredEvaluation", comparisons: "list[PairedComparison]") -> "Table":
    from rich.table import Table

    from mixbench.cli.tables import radius

    record = first.record
    threat_model = f"{record.threat_model.norm.value} {radius(record.threat_model.eps)}"
    table = Table(
        title=f"A {record.model.name} ({record.model.sha256[:10]}) and B {second.record.model.name}"
        f" ({second.record.model.sha256[:10]})\non {record.dataset.name} ({record.dataset.split}, {record.dataset.n}"
        f" examples, {record.dataset.subset}), {record.attack.name} {record.attack.version}, {threat_model}",
        caption="Accuracies in percent, differences in points with exact 95% intervals; p is McNemar's, exact.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("right")
    for name in ("A", "B", "A less B", "both", "A alone", "B alone", "neither", "p"):
        table.add_column(name, justify="right")
    for found in comparisons:
        difference, interval = 100 * found.difference, found.interval
        table.add_row(
            found.outcome,
            f"{100 * (found.both + found.only_first) / found.n:.2f}",
            f"{100 * (found.both + found.only_second) / found.n:.2f}",
            f"{difference:+.2f} [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]",
            *(str(count) for count in (found.both, found.only_first, found.only_second, found.neither)),
            f"{found.p:.2g}",
        )
    return table


def _losses(found: "PairedComparison") -> "Table":
    from rich.table import Table

    table = Table("what cost the other one the example", title_justify="left")
    table.add_column("A alone robust: B lost to", justify="right")
    table.add_column("B alone robust: A lost to", justify="right")
    for stage, count in found.second_lost_to.items():
        what = "misclassified without attack" if stage == "clean" else f"broken by {stage}"
        table.add_row(what, str(count), str(found.first_lost_to[stage]))
    return table
