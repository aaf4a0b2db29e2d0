"""What the page promises without a browser."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mixbench.leaderboard import rank, read, render
from tests.conftest import ROOT
from tests.leaderboard.boards_for_tests import Toy, add_records, write_card

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"


class Elements(HTMLParser):
    """Every element of a page with its attributes, the text of its scripts, and all other text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._within = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts[-1] += data
        elif self._within != "style":
            self.text += data


@pytest.fixture
def page(folder: Path) -> Elements:
    """The page of the toy board with a stranger's model, whose every text is hostile."""
    name = "resnet_trained.toy"
    submission = folder / "submissions" / name
    submission.mkdir(parents=True)
    fields = ("licence", "training_data", "recipe", "extra_data", "reference")
    (submission / "card.json").write_text(json.dumps(dict.fromkeys(fields, HOSTILE) | {"authors": [HOSTILE]}))
    write_card(folder.parent / "model_zoo", name, recipe=HOSTILE)
    add_records(folder, Toy(name, ["robust"] * 40, warnings=(HOSTILE,)))
    add_records(folder, Toy(HOSTILE, ["robust"] * 40))
    (folder / "records" / "broken").mkdir()
    return Elements(render(rank(read(folder)))["index.html"].decode())


def test_a_strangers_text_is_shown_as_text(page: Elements) -> None:
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert "img" not in {tag for tag, _ in page.elements}
    assert [name for _, attributes in page.elements for name in attributes if name.startswith("on")] == []
    # Author, licence, training and extra data, two recipes, reference, warning; the two names may be broken anywhere.
    assert page.text.count(HOSTILE) >= 8
    assert "{{7*7}}" in page.text


def test_the_data_cannot_end_its_element(page: Elements) -> None:
    data, _ = page.scripts
    assert HOSTILE in json.loads(data)["toy"]["models"]


def test_the_policy_allows_this_script_and_no_network(page: Elements) -> None:
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"https?:|\*|unsafe-eval|script-src[^;]*unsafe", policy)


def test_nothing_is_loaded_from_elsewhere(page: Elements) -> None:
    for tag, attributes in page.elements:
        assert attributes.get("src") is None, tag
        assert not (attributes.get("href") or "").startswith(("http", "//", "javascript")), tag


def test_the_licences_of_the_table_library_are_kept(page: Elements) -> None:
    script = page.scripts[1]
    for notice in ("SpryMedia Ltd - datatables.net/license", "OpenJS Foundation", "Released under the MIT license"):
        assert notice in script


def test_labels_and_headings_are_there_for_a_screen_reader(page: Elements) -> None:
    identities = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identities) == len(set(identities))
    for tag, attributes in page.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in identities
        if attributes.get("role") in {"img", "region"}:
            assert attributes.get("aria-label"), tag
    assert [tag for tag, _ in page.elements].count("h1") == 1


def test_a_fault_is_named_on_the_page(page: Elements) -> None:
    assert "cannot read" in page.text
    assert "record.json" in page.text


def test_what_the_records_of_an_attack_share_is_told_once(folder: Path) -> None:
    small, large = sorted(folder.glob("records/toy-convmixer_trained.toy-*"), key=lambda path: path.name, reverse=True)
    page = render(rank(read(folder)))["index.html"].decode()
    (shared,) = record_groups(page, "convmixer_trained.toy")
    assert shared.count("PGD-20") == shared.count("foolbox 3.3.4") == shared.count("2026-01-02") == 1
    assert shared.count("<tr>") == 3
    for path in (small, large):
        assert f'href="records/{path.name}/record.json"' in shared
        assert f'href="records/{path.name}/examples.parquet"' in shared


def test_records_made_otherwise_stand_under_a_heading_of_their_own(folder: Path) -> None:
    path = next(folder.glob("records/toy-convmixer_trained.toy-*-Linf_1_10-*/record.json"))
    content = json.loads(path.read_text())
    content["provenance"] |= {"device": "another device", "started": "2026-01-03T00:00:00Z"}
    path.write_text(json.dumps(content))
    page = render(rank(read(folder)))["index.html"].decode()
    groups = record_groups(page, "convmixer_trained.toy")
    assert ["Linf 1/10" in group for group in groups] == ["another device" in group for group in groups]
    assert sorted("2026-01-03" in group for group in groups) == [False, True]


def record_groups(page: str, model: str) -> list[str]:
    """The groups of the table of records in a model's section."""
    section = page.partition(f'id="model-{model}-')[2].partition("</section>")[0]
    table = section.partition('<table class="grid records">')[2]
    return re.findall("<tbody>.*?</tbody>", table, re.DOTALL)


def test_every_link_of_the_committed_page_leads_somewhere() -> None:
    folder = ROOT / "leaderboards"
    committed = Elements((folder / "index.html").read_text(encoding="utf-8"))
    identities = {a["id"] for _, a in committed.elements if "id" in a}
    links = {a["href"] for _, a in committed.elements if a.get("href") and a["href"] != "data:,"}
    assert len(links) > 100
    for link in links:
        assert link is not None
        assert link.removeprefix("#") in identities if link.startswith("#") else (folder / link).is_file(), link
