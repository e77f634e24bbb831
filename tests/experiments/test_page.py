"""The report in a real browser: no errors, tables that sort, pictures that fit, dark and light."""

import shutil
from pathlib import Path

import pytest

from experiments.pages import to_html
from experiments.sections import sections
from tests.experiments.found import found_of

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is missing: pip install 'diffrec-jax[dev]'")
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="there is no browser: apt install chromium chromium-driver",
    ),
]

REPORT = Path(__file__).parents[2] / "docs" / "report" / "report.html"


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, tmp_path):
    found = {
        "models": found_of("models", ["DiffRec", "EASE", "MF", "S-DiffRec"]),
        "steps": found_of("steps", ["2", "10", "40"]),
    }
    path = tmp_path / "report.html"
    path.write_text(to_html("A report", sections(found)))
    browser.get(path.as_uri())
    return browser


def test_it_loads_without_errors_and_asks_for_nothing_else(page):
    assert page.title == "A report"
    assert page.get_log("browser") == []
    asked = [
        entry["message"] for entry in page.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
    ]
    assert not [message for message in asked if '"url":"http' in message]


def test_tables_sort_by_a_click(page):
    headings = page.find_elements("css selector", "th button")
    button = next(heading for heading in headings if heading.text == "recall@20")
    table = button.find_element("xpath", "ancestor::table")
    own = [heading.text for heading in table.find_elements("css selector", "thead th")]
    place = own.index("recall@20")

    def column():
        rows = table.find_elements("css selector", "tbody tr")
        return [float(row.find_elements("xpath", "*")[place].get_attribute("data-value")) for row in rows]

    before = column()
    button.click()
    assert column() == sorted(before, reverse=True) and len(set(before)) > 1
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    button.click()
    assert column() == sorted(before)
    place = next(number for number, text in enumerate(own) if text.startswith("recall@20 - "))
    differences = table.find_elements("css selector", "th button")[place]
    differences.click()
    differences.click()
    assert column()[0] == float("-inf") and column() == sorted(column())  # what is not measured is below all
    of_names = table.find_element("css selector", "th button")
    of_names.click()
    names = [name.text for name in table.find_elements("css selector", "tbody th")]
    assert names == ["S-DiffRec", "MF", "EASE", "DiffRec"]


@pytest.mark.parametrize("width", [400, 1400])
def test_headings_show_that_they_sort_and_stay_where_they_are(page, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def shown():
        return page.execute_script(
            "return [...document.querySelectorAll('thead button')].map(button => {"
            " const mark = getComputedStyle(button, '::after'), box = button.getBoundingClientRect();"
            " return [mark.content[1], box.x, box.y, box.width, box.height]; })"
        )

    before = shown()
    assert {mark for mark, *_ in before} == {"⇅"}
    assert len({height for *_, height in before}) == 1  # no mark stands below its heading
    first = page.find_element("css selector", "thead button")
    for mark in "▼▲":
        first.click()
        assert shown() == [[mark, *before[0][1:]], *before[1:]]


def test_names_of_rows_stay_above_what_scrolls_below_them(page):
    """Headings with their marks, too."""
    size = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    covered = page.execute_script(
        "const box = [...document.querySelectorAll('.scroll')].find(box => box.scrollWidth > box.clientWidth + 200);"
        "box.scrollIntoView(); const covered = [];"
        "for (let left = 0; left <= 200; left += 2) {"
        " box.scrollLeft = left;"
        " for (const cell of box.querySelectorAll('th:first-child')) {"
        "  const {x, y, width, height} = cell.getBoundingClientRect();"
        "  for (const part of [.2, .5, .8]) {"
        "   const seen = document.elementFromPoint(x + part * width, y + height / 2);"
        "   if (!cell.contains(seen)) covered.push([left, cell.textContent, seen.textContent]);"
        " }}} return covered"
    )
    assert covered == []


def test_tables_have_names_and_rows_their_headings(page):
    """As those hear them who go through a table by ear; seen is the heading above."""
    tables = page.find_elements("css selector", ".scroll:not(details .scroll) table")
    names = [table.accessible_name for table in tables]
    assert names[:4] == ["Do the paper's claims hold?"] * 3 + ["All models"]
    assert all(table.aria_role == "table" for table in tables)
    caption = page.execute_script("return document.querySelector('caption').getBoundingClientRect().height")
    assert caption <= 1
    row = tables[3].find_elements("css selector", "tbody tr")[0]
    cells = row.find_elements("xpath", "*")
    assert [cell.aria_role for cell in cells[:2]] == ["rowheader", "cell"]
    looks = [[cell.value_of_css_property(name) for name in ("font-weight", "color")] for cell in cells[:2]]
    assert looks[0] == looks[1]


def heights_of_letters(page):
    """Of all that pictures say, in pixels as they are seen."""
    return page.execute_script(
        "return [...document.querySelectorAll('figure svg text')].map(text => { const {a, b} = text.getScreenCTM();"
        " return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b); })"
    )


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_fit_and_are_seen(page, width, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    boxes = page.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(svg => [svg.getBoundingClientRect().width, "
        "svg.getBoundingClientRect().height, svg.getBBox().width, svg.querySelectorAll('path').length])"
    )
    assert len(boxes) == 5 and all(box[0] > 50 and box[1] > 50 and box[2] > 0 and box[3] > 5 for box in boxes)
    assert min(heights_of_letters(page)) > 7
    ink, paper = page.execute_script(
        "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
    )
    assert (sum(map(int, ink[4:-1].split(","))) > sum(map(int, paper[4:-1].split(",")))) == (scheme == "dark")


@pytest.mark.parametrize("width", [400, 1400])
def test_the_report_of_the_docs_fits(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(REPORT.as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert min(heights_of_letters(browser)) > 7
