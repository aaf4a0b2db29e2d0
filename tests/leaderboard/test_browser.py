"""The page in a real browser, opened from the disk; skipped where no Chromium is installed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixbench.leaderboard import build
from mixbench.statistics import mcnemar_p
from mixbench.store import load_evaluation
from tests.leaderboard.boards_for_tests import Toy, add_records, show_half
from tests.leaderboard.conftest import EQUAL, STRONG, WEAK

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[test]'")

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> "Iterator[playwright.Browser]":
    """The machine's own Chromium."""
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=_CHROMIUM, args=_ARGUMENTS.split())
        yield started
        started.close()


@pytest.fixture
def leaderboards(folder: Path) -> Path:
    """The built toy board: PGD on three models, AutoAttack on two of them."""
    for toy in (STRONG, WEAK):
        stages = [fate.replace("pgd", "apgd-ce" if i % 2 else "square") for i, fate in enumerate(toy.fates)]
        add_records(folder, Toy(toy.name, stages, mixing=toy.mixing), attack="autoattack")
    add_records(folder, Toy("<img src=x onerror=alert(1)>", ["robust"] * 40))
    build(folder)
    return folder


@pytest.fixture
def page(browser: "playwright.Browser", leaderboards: Path) -> "Iterator[playwright.Page]":
    """The page, which must ask for nothing but itself and must not complain."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(10_000)
    opened = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: complaints.append(dialog.message))
    opened.on("request", lambda request: requests.append(request.url))
    address = (leaderboards / "index.html").as_uri()
    opened.goto(address)
    opened.wait_for_selector("html[data-ready]")
    yield opened
    assert complaints == []
    assert {url.partition("#")[0] for url in requests} == {address}
    context.close()


def shown(page: "playwright.Page") -> list[str]:
    return page.locator("table.results tbody tr:visible th").all_inner_texts()


def test_the_headline_is_shown_first(page: "playwright.Page") -> None:
    assert shown(page) == [STRONG.name, WEAK.name]
    assert page.locator("[data-shown]").inner_text() == "2 rows"


def test_filters_and_search_narrow_the_rows(page: "playwright.Page") -> None:
    page.get_by_role("combobox", name="Threat model").select_option("")
    assert len(shown(page)) == 4
    page.get_by_role("combobox", name="Mixing").select_option("frozen")
    assert set(shown(page)) == {WEAK.name}
    page.get_by_role("combobox", name="Mixing").select_option("")
    page.get_by_role("searchbox", name="Search").fill("trained.toy")
    assert set(shown(page)) == {STRONG.name}
    page.get_by_role("combobox", name="Architecture").select_option("convmixer")
    assert page.locator("[data-shown]").inner_text() == "2 rows"


def test_a_click_and_the_keyboard_sort(page: "playwright.Page") -> None:
    header = page.locator("table.results thead th", has_text="AutoAttack")
    header.click()
    playwright.expect(header).to_have_attribute("aria-sort", "descending")
    assert shown(page) == [STRONG.name, WEAK.name]
    header.locator("[role=button], .dt-column-order").first.focus()
    page.keyboard.press("Enter")
    playwright.expect(header).to_have_attribute("aria-sort", "ascending")
    assert shown(page) == [WEAK.name, STRONG.name]


def test_curves_show_the_chosen_models_and_attack(page: "playwright.Page") -> None:
    figures = page.locator("figure.curve:visible")
    assert figures.count() == 1
    marks = figures.locator("svg[role=img] g.mark:visible")
    assert marks.count() == 2
    figures.get_by_role("button", name=WEAK.name.removesuffix(".toy")).click()
    assert marks.count() == 1
    assert STRONG.name in marks.locator("title").inner_html()
    page.get_by_role("button", name="Hide all").click()
    assert marks.count() == 0
    page.get_by_role("button", name="Show all models").click()
    page.locator("[data-curve]").select_option(label="PGD-20, Linf")
    assert (figures.count(), marks.count()) == (1, 4)
    assert "PGD-20" in figures.locator("figcaption").inner_text()


def test_two_models_are_compared_as_the_records_say(page: "playwright.Page", leaderboards: Path) -> None:
    compare = page.locator(".compare")
    compare.get_by_label("Under").select_option(label="PGD-20, Linf 1/20")
    compare.locator("[data-side=a]").select_option(label=WEAK.name)
    compare.locator("[data-side=b]").select_option(label=EQUAL.name)
    verdicts = [
        ~load_evaluation(next(leaderboards.glob(f"records/toy-{name}-pgd-Linf_1_20-*"))).table["broken"].to_numpy(bool)
        for name in (WEAK.name, EQUAL.name)
    ]
    p = mcnemar_p(int((verdicts[0] & ~verdicts[1]).sum()), int((verdicts[1] & ~verdicts[0]).sum()))
    assert p == 1
    assert "The data does not tell them apart" in compare.inner_text()
    assert "McNemar p 1.0." in compare.inner_text()
    compare.locator("[data-side=a]").select_option(label=STRONG.name)
    compare.get_by_label("Under").select_option(label="PGD-20, Linf 1/10")
    text = compare.inner_text()
    assert "A is more robust: A less B is +62.5 points" in text
    assert mcnemar_p(25, 0) < 0.0001
    assert "McNemar p below 0.0001" in text
    assert "25 for A alone, 0 for B alone" in text


def test_the_interval_of_a_difference_is_bonett_and_prices(page: "playwright.Page") -> None:
    compare = page.locator(".compare")
    compare.get_by_label("Under").select_option(label="PGD-20, Linf 1/10")
    compare.locator("[data-side=a]").select_option(label=STRONG.name)
    compare.locator("[data-side=b]").select_option(label=WEAK.name)
    a, b, n = 26 / 42, 1 / 42, 42
    half = 1.959963984540054 * ((a + b - (a - b) ** 2) / n) ** 0.5
    low, high = 100 * (a - b - half), 100 * (a - b + half)
    assert f"(95% interval +{low:.1f} to +{high:.1f})" in compare.inner_text()


def test_two_sets_of_images_are_told_apart(browser: "playwright.Browser", folder: Path) -> None:
    show_half(folder, n=20)
    for toy in (STRONG, WEAK):
        add_records(folder, Toy(toy.name, ["robust"] * 19 + ["wrong"]), grid=("1/10",), subset="half")
    build(folder)
    opened = browser.new_page()
    opened.goto((folder / "index.html").as_uri())
    opened.wait_for_selector("html[data-ready]")
    assert len(shown(opened)) == 2
    assert "Of 20 images 19 survive for both" in opened.locator(".compare").inner_text()
    opened.get_by_role("combobox", name="Threat model").select_option("Linf 1/10, 40 images")
    assert len(shown(opened)) == 3
    opened.close()


def test_what_broke_the_losses_is_told(page: "playwright.Page") -> None:
    compare = page.locator(".compare")
    compare.get_by_label("Under").select_option(label="AutoAttack, Linf 1/10")
    rows = {row.split("\t")[0]: row.split("\t")[1:] for row in compare.locator("table tr").all_inner_texts()}
    assert rows["lost where the other survives: broken by apgd-ce"] == ["0", "13"]
    assert rows["lost where the other survives: broken by square"] == ["0", "12"]


def test_a_model_has_a_page_and_a_way_back(page: "playwright.Page") -> None:
    page.get_by_role("link", name=STRONG.name).first.click()
    assert page.get_by_role("heading", name=STRONG.name, level=2).is_visible()
    assert "mixbench eval --model convmixer_trained.toy" in page.locator(".model:visible").inner_text()
    assert not page.locator(".boards").is_visible()
    page.get_by_role("link", name="All models").locator("visible=true").click()
    assert page.locator(".boards").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_no_width_makes_the_page_scroll_sideways(page: "playwright.Page", width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("parseInt(getComputedStyle(document.documentElement).backgroundColor.slice(4)) < 128")
    assert dark == (scheme == "dark")


@pytest.mark.parametrize("width", [390, 1000, 1440])
def test_a_column_is_shown_and_aligned_as_its_heading_is(page: "playwright.Page", width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.get_by_role("combobox", name="Threat model").select_option("")
    columns = page.evaluate(
        """() => {
          const [head, row] = document.querySelectorAll("table.results tr");
          const styled = (cell) => [getComputedStyle(cell).display, getComputedStyle(cell).textAlign];
          return [...head.cells].map((cell, i) => [cell.innerText.trim(), styled(cell), styled(row.cells[i])]);
        }"""
    )
    assert [heading for _, heading, _ in columns] == [cell for _, _, cell in columns]
    titles = {title for title, (display, _), _ in columns if display != "none"}
    minor = {"Recipe", "Area", "Trained", "Frozen", "Proof", "Warnings", "Passes", "Evaluated"}
    assert titles & minor == (minor if width == 1440 else set())
    assert ("Mixing" in titles) == (width > 720)


def test_the_page_reads_without_javascript(browser: "playwright.Browser", leaderboards: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((leaderboards / "index.html").as_uri())
    text = page.locator("main").inner_text()
    for told in (STRONG.name, WEAK.name, "AutoAttack", "PGD-20", "Linf 1/20", "seed 3"):
        assert told in text
    assert page.locator("form:visible").count() == 0
    assert page.locator("figure.curve svg[role=img]:visible").count() == 2
    context.close()
