"""What machines and code hosts are told, read back by programs that know the formats."""

import json
from xml.etree import ElementTree as ET

import pytest
from junitparser import Failure, JUnitXml, Skipped
from markdown_it import MarkdownIt

from mixbench.gate import GateVerdict, Pair, annotations, explanation, gate_all, junit, summary, to_json
from mixbench.store import StoredEvaluation
from tests.evaluations_for_tests import unstored

# Robust accuracy: reproduced, fallen, and unclear.
_SAME = ["robust"] * 40
_FALLEN = ["apgd-ce"] * 30 + ["robust"] * 10
_UNCLEAR = ["apgd-t"] + ["robust"] * 39
_NASTY = 'a|b <script>alert("x")</script> **[c](http://d)** `e`\n::error::f, 100% :g \x00\x1b & "h"'


def named(evaluation: StoredEvaluation, name: str) -> StoredEvaluation:
    model = evaluation.record.model.model_copy(update={"name": name})
    record = evaluation.record.model_copy(update={"model": model})
    return StoredEvaluation(record, evaluation.table, evaluation.folder)


def verdicts(name: str | None = None) -> tuple[GateVerdict, ...]:
    pairs = [(unstored(_SAME), unstored(fates)) for fates in (_SAME, _FALLEN, _UNCLEAR)]
    if name is not None:
        pairs = [(named(before, name), named(after, name)) for before, after in pairs]
    return gate_all([Pair(before, after, margin=5.0) for before, after in pairs], alpha=0.05)


def test_the_three_are_what_they_are_called() -> None:
    assert [verdict.verdict for verdict in verdicts()] == ["pass", "fail", "inconclusive"]


def test_the_explanation_names_the_numbers_that_decided() -> None:
    same, fallen, unclear = (verdict.checks[1] for verdict in verdicts())
    assert explanation(same) == "the same weights gave the same verdict and margin on each of 40 examples"
    low, high = fallen.fall.low, fallen.fall.high
    assert explanation(fallen) == (
        f"changed by -75.00 points, 90% interval of the fall [{low:+.2f}, {high:+.2f}]: more than the margin of 5"
    )
    assert explanation(unclear).endswith(
        "it may be more or less than the margin of 5; 40 examples detect a fall of"
        f" {unclear.detectable_fall:.1f} points (power 80%, with 0 right for the candidate alone, as here); about"
        f" {unclear.examples_needed} would pass an equally good candidate"
    )


def test_json_holds_what_the_verdict_was_made_of() -> None:
    content = json.loads(to_json(verdicts()))
    assert (content["format"], content["verdict"], content["alpha"]) == ("mixbench.gate/1", "fail", 0.05)
    assert [item["verdict"] for item in content["candidates"]] == ["pass", "fail", "inconclusive"]
    clean, robust = content["candidates"][1]["checks"]
    assert (clean["accuracy"], clean["verdict"], clean["fall"]) == ("clean", "pass", 0)
    assert (robust["only_baseline"], robust["only_candidate"], robust["n"], robust["fall"]) == (30, 0, 40, 75.0)
    assert robust["regression_p"] == verdicts()[1].checks[1].regression_p


@pytest.mark.parametrize("allow_inconclusive", [False, True])
def test_junit_counts_regressions_as_failures_and_skips_what_is_allowed(*, allow_inconclusive: bool) -> None:
    content = junit(verdicts(), allow_inconclusive=allow_inconclusive)
    read = JUnitXml.fromstring(content)
    assert (read.tests, read.failures, read.skipped, read.errors) == (
        (6, 1, 1, 0) if allow_inconclusive else (6, 2, 0, 0)
    )
    results = [case.result for suite in read for case in suite]
    kinds = [type(result[0]) if result else None for result in results]
    assert kinds == [None, None, None, Failure, None, Skipped if allow_inconclusive else Failure]
    (failure,) = results[3]
    assert failure.type == "fail"
    assert failure.message == explanation(verdicts()[1].checks[1])
    assert "lost to: clean 0, apgd-ce 30, apgd-t 0" in failure.text


def test_junit_has_what_readers_ask_for() -> None:
    """Jenkins' schema and GitLab: names, class names, times and counts everywhere, and the counts add up."""
    root = ET.fromstring(junit(verdicts(), allow_inconclusive=False))  # noqa: S314 - made here
    assert root.tag == "testsuites"
    for suite in root:
        assert {"name", "tests", "failures", "errors", "skipped", "time"} <= suite.attrib.keys()
        assert int(suite.get("tests", "")) == len(suite)
        for case in suite:
            assert case.get("classname")
            assert case.get("name") in {"clean accuracy", "robust accuracy"}
            assert float(case.get("time", "")) >= 0
    assert int(root.get("tests", "")) == sum(len(suite) for suite in root)
    assert float(root.get("time", "")) == pytest.approx(sum(float(suite.get("time", "")) for suite in root), abs=0.01)


def test_junit_can_hold_any_name() -> None:
    (suite, *_) = JUnitXml.fromstring(junit(verdicts(_NASTY), allow_inconclusive=False))
    shown = _NASTY.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    assert suite.name == f"{shown} on digits, pgd, Linf 1/10"


def test_annotations_are_one_command_a_check_that_did_not_pass() -> None:
    fallen, unclear = annotations(verdicts(), allow_inconclusive=False)
    assert fallen.startswith(
        "::error title=fail%3A robust accuracy of convmixer_frozen.digits on digits%2C pgd%2C Linf"
    )
    assert fallen.endswith(f"::{explanation(verdicts()[1].checks[1]).replace('%', '%25')}")
    assert unclear.startswith("::error title=inconclusive%3A robust")
    assert annotations(verdicts(), allow_inconclusive=True)[1].startswith("::warning title=inconclusive%3A robust")


def test_annotations_cannot_be_broken_out_of() -> None:
    for line in annotations(verdicts(_NASTY), allow_inconclusive=False):
        assert len(line.splitlines()) == 1
        # What GitHub's runner splits a command at: the end of its properties, and commas and colons within them.
        command, properties, _ = line[2:].partition("::")[0].partition(" ")[0], *line[2:].partition("::")[::2]
        assert command == "error"
        assert "," not in properties.partition("title=")[2]
        assert ":" not in properties.partition("title=")[2]


def test_the_summary_shows_what_failed_and_a_row_for_each_check() -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(summary(verdicts()))
    texts = [token.content for token in tokens if token.type == "inline"]
    assert texts[0] == "mixbench gate: fail"
    assert texts[1].startswith("**fail**: robust accuracy of convmixer")
    assert texts[2].startswith("**inconclusive**: robust accuracy of convmixer")
    assert sum(token.type == "tr_open" for token in tokens) == 1 + 6


def test_the_summary_shows_names_as_they_are() -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(summary(verdicts(_NASTY)))
    assert not [token for token in tokens if token.type.startswith("html")]
    rows = [token for token in tokens if token.type == "tr_open"]
    cells = [token for token in tokens if token.type == "td_open"]
    assert (len(rows), len(cells)) == (7, 6 * 9)
    first = next(tokens[i + 1] for i, token in enumerate(tokens) if token.type == "td_open")
    assert first.children is not None
    assert {child.type for child in first.children} <= {"text", "text_special"}
    shown = "".join(child.content for child in first.children)
    assert shown == " ".join(_NASTY.replace("\x00", "\ufffd").split())
