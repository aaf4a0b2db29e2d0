"""A verdict for machines and code hosts: JSON, JUnit XML, annotations and a summary in markdown."""

import html
import json
import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from mixbench.gate.verdict import POWER, Check, GateVerdict, Verdict, worst
from mixbench.records import EvaluationRecord

_FORMAT = "mixbench.gate/1"
# What XML 1.0 cannot hold, escaped or not.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~@-])")


def explanation(check: Check) -> str:
    """Return the reason of a verdict in a sentence or two, differences in points."""
    found, margin = check.comparison, f"the margin of {check.margin:g}"
    if check.reproduced:
        return f"the same weights gave the same verdict and margin on each of {found.n} examples"
    fall = f"{_change(check)} points, {1 - 2 * check.alpha:.0%} interval of the fall {_interval(check)}"
    if check.verdict is Verdict.PASS:
        return f"{fall}: a fall, if any, is less than {margin}"
    if check.verdict is Verdict.FAIL:
        return f"{fall}: more than {margin}"
    return f"{fall}: it may be more or less than {margin}; {_strength(check)}"


def _change(check: Check) -> str:
    change = -100 * check.comparison.difference
    return f"changed by {change:+.2f}" if change else "changed by 0"


def _interval(check: Check) -> str:
    return f"[{check.fall.low:+.2f}, {check.fall.high:+.2f}]"


def _strength(check: Check) -> str:
    """Say what the examples can tell, and how many would do."""
    found = check.comparison
    detects = "no fall" if check.detectable_fall is None else f"a fall of {check.detectable_fall:.1f} points"
    told = (
        f"{found.n} examples detect {detects} (power {POWER:.0%}, with {found.only_second} right for the candidate"
        " alone, as here)"
    )
    if check.examples_needed is None:
        return f"{told}; without a margin only an improvement or the same model passes"
    return f"{told}; about {check.examples_needed} would pass an equally good candidate"


def to_json(verdicts: Sequence[GateVerdict]) -> str:
    """Return the verdicts as indented JSON with a final newline; accuracies in [0, 1], falls and margins in points."""
    content = {
        "format": _FORMAT,
        "verdict": worst(verdict.verdict for verdict in verdicts),
        "alpha": verdicts[0].checks[0].alpha,
        "power": POWER,
        "candidates": [
            {
                "baseline": _side(verdict.baseline),
                "candidate": _side(verdict.candidate),
                "dataset": verdict.candidate.dataset.model_dump(mode="json"),
                "attack": verdict.candidate.attack.model_dump(mode="json"),
                "threat_model": verdict.candidate.threat_model.model_dump(mode="json"),
                "verdict": verdict.verdict,
                "checks": [_check(check) for check in verdict.checks],
            }
            for verdict in verdicts
        ],
    }
    return json.dumps(content, indent=2) + "\n"


def _side(record: EvaluationRecord) -> dict[str, object]:
    return {
        "record": record.id,
        "model": record.model.name,
        "sha256": record.model.sha256,
        "clean": record.clean.rate,
        "robust": record.robust.rate,
    }


def _check(check: Check) -> dict[str, object]:
    found = check.comparison
    return {
        "accuracy": found.outcome,
        "verdict": check.verdict,
        "reproduced": check.reproduced,
        "explanation": explanation(check),
        "n": found.n,
        "both": found.both,
        "only_baseline": found.only_first,
        "only_candidate": found.only_second,
        "neither": found.neither,
        "fall": 100 * found.difference,
        "fall_low": check.fall.low,
        "fall_high": check.fall.high,
        "margin": check.margin,
        "regression_p": check.regression_p,
        "equality_p": check.equality_p,
        "detectable_fall": check.detectable_fall,
        "examples_needed": check.examples_needed,
    }


def junit(verdicts: Sequence[GateVerdict], *, allow_inconclusive: bool) -> bytes:
    """Return JUnit XML: a suite a candidate, a case an accuracy.

    A regression is a failure; so is an inconclusive check, or it is skipped where that is allowed.
    """
    root = ET.Element("testsuites", name="mixbench gate")
    for verdict in verdicts:
        suite = ET.SubElement(root, "testsuite", name=_xml(_title(verdict)))
        for check in verdict.checks:
            _case(suite, verdict, check, allow_inconclusive=allow_inconclusive)
    for element in (*root, root):
        cases = list(element.iter("testcase"))
        counts = {kind: sum(case.find(tag) is not None for case in cases) for kind, tag in _COUNTED.items()}
        seconds = sum(float(case.get("time", "0")) for case in cases)
        element.attrib |= {"tests": str(len(cases)), **{kind: str(count) for kind, count in counts.items()}}
        element.set("time", f"{seconds:.3f}")
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


_COUNTED = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def _case(suite: ET.Element, verdict: GateVerdict, check: Check, *, allow_inconclusive: bool) -> None:
    # Readers sum up the times of the cases; both accuracies come from one evaluation.
    seconds = verdict.candidate.cost.seconds / len(verdict.checks)
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_xml(_title(verdict)),
        name=f"{check.comparison.outcome} accuracy",
        time=f"{seconds:.3f}",
    )
    message = _xml(explanation(check))
    if check.verdict is Verdict.INCONCLUSIVE and allow_inconclusive:
        ET.SubElement(case, "skipped", message=message)
    elif check.verdict is not Verdict.PASS:
        failure = ET.SubElement(case, "failure", type=check.verdict.value, message=message)
        failure.text = _xml(
            f"{message}\nbaseline: {verdict.baseline.id}\ncandidate: {verdict.candidate.id}\nlost to:"
            f" {', '.join(f'{stage} {count}' for stage, count in check.comparison.second_lost_to.items())}"
        )


def annotations(verdicts: Sequence[GateVerdict], *, allow_inconclusive: bool) -> list[str]:
    """Return GitHub's workflow commands, a line for each check that did not pass."""
    lines: list[str] = []
    for verdict in verdicts:
        for check in verdict.checks:
            if check.verdict is not Verdict.PASS:
                mild = check.verdict is Verdict.INCONCLUSIVE and allow_inconclusive
                title = f"{check.verdict}: {check.comparison.outcome} accuracy of {_title(verdict)}"
                level = "warning" if mild else "error"
                lines.append(f"::{level} title={_property(title)}::{_data(explanation(check))}")
    return lines


def _data(text: str) -> str:
    """Escape as GitHub's toolkit does (actions/toolkit, packages/core/src/command.ts)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def summary(verdicts: Sequence[GateVerdict]) -> str:
    """Return the verdicts in markdown, for a job summary: what did not pass first, then everything."""
    overall, alpha = worst(verdict.verdict for verdict in verdicts), verdicts[0].checks[0].alpha
    lines = [f"## mixbench gate: {overall}", ""]
    for verdict in verdicts:
        for check in verdict.checks:
            if check.verdict is not Verdict.PASS:
                what = f"{check.comparison.outcome} accuracy of {_title(verdict)}"
                lines.append(f"- **{check.verdict}**: {_markdown(f'{what}: {explanation(check)}')}")
    lines += [
        "",
        f"| model | data | attack | accuracy | baseline | candidate | fall [{1 - 2 * alpha:.0%}] | margin | |",
    ]
    lines += ["| --- | --- | --- | --- | ---: | ---: | ---: | ---: | --- |"]
    lines += ["| " + " | ".join(map(_markdown, row)) + " |" for row in rows(verdicts)]
    lines += ["", "Accuracies in percent, falls and margins in points, paired on the same examples."]
    return "\n".join(lines) + "\n"


def rows(verdicts: Sequence[GateVerdict]) -> list[tuple[str, ...]]:
    """Return a row for each check: model, data, attack, accuracy, baseline, candidate, fall, margin, verdict."""
    return [
        (
            _models(verdict),
            f"{verdict.candidate.dataset.name} ({verdict.candidate.dataset.n})",
            f"{verdict.candidate.attack.name}, {verdict.candidate.threat_model.value}",
            check.comparison.outcome,
            f"{100 * _rate(check.comparison.only_first, check):.2f}",
            f"{100 * _rate(check.comparison.only_second, check):.2f}",
            f"{100 * check.comparison.difference:+.2f} {_interval(check)}",
            f"{check.margin:g}",
            f"{check.verdict} (reproduced)" if check.reproduced else check.verdict.value,
        )
        for verdict in verdicts
        for check in verdict.checks
    ]


def _rate(alone: int, check: Check) -> float:
    return (check.comparison.both + alone) / check.comparison.n


def _models(verdict: GateVerdict) -> str:
    before, after = verdict.baseline.model.name, verdict.candidate.model.name
    return after if before == after else f"{after} for {before}"


def _title(verdict: GateVerdict) -> str:
    record = verdict.candidate
    return f"{_models(verdict)} on {record.dataset.name}, {record.attack.name}, {record.threat_model.value}"


def _xml(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)


def _markdown(text: str) -> str:
    """Return `text` such that markdown shows it as it is, on one line."""
    return html.escape(_MARKDOWN.sub(r"\\\1", " ".join(text.split())), quote=False)
