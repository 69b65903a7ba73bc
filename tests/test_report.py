"""Reports: what they say is what the certificates say, and they work in a real browser without a
network.
"""

import ast
import dataclasses
import math
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import lirpa_explain as lx
from lirpa_explain.reporting.page import assumptions
from lirpa_explain.reporting.table import Measure, make_table

ROOT = Path(lx.__file__).parent
EPS = (0.01, 0.05, 0.1)
NAMES = ["<script>document.title = 'injected'</script>", *(f"row {i}" for i in range(1, 12))]
FEATURES = ["age", "income", "hours & days", "debt"]


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium without a network."""
    chromium = (shutil.which("chromium") or shutil.which("google-chrome")
                or shutil.which("chromium-browser"))
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        message = ("Reports are tested in a browser: install Chromium and chromedriver (Debian: "
                   "apt-get install chromium chromium-driver), on PATH.")
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                     "--window-size=1200,900", "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    opened.execute_cdp_cmd("Network.enable", {})
    opened.execute_cdp_cmd("Network.emulateNetworkConditions",
                           {"offline": True, "latency": 0, "downloadThroughput": 0,
                            "uploadThroughput": 0})
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def rows():
    """Certificates of rows of a table, one of which has an infinite bound."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(),
                                torch.nn.Linear(8, 3)).double()
    x = torch.rand(12, 4).double()
    certifier = lx.Certifier(Saliency(model), abs=False, target=1)
    certificates = {eps: certifier.certify(x, eps=eps) for eps in EPS}
    certificates[0.1].upper[3, 0] = math.inf
    return certificates, {eps: lx.certify_prediction(model, x, eps=eps) for eps in EPS}


@pytest.fixture(scope="module")
def table_page(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "table.html"
    certificates, predictions = rows
    lx.report(certificates, path, names=NAMES, features=FEATURES, targets=[1] * 12,
              predictions=predictions,
              metrics=["cosine", ("top_k_overlap", {"k": 2}), Measure("linf")], details=4)
    return path


@pytest.fixture(scope="module")
def image_page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "images.html"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(),
                                torch.nn.Linear(72, 2))
    x = 4 * torch.rand(2, 3, 8, 8) - 2
    lx.report(lx.certify(IntegratedGradients(model), x, eps=0.02, target=0, n_steps=2), path,
              inputs=x, details=1)
    return path


def opened(browser, page):
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert not [entry
                for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]
    return browser


def header(browser, name):
    return browser.execute_script("return [...document.querySelectorAll('#summary th')].find("
                                  "  th => th.textContent.trim().startsWith(arguments[0]))", name)


def cells(browser, name):
    index = browser.execute_script("return [...document.querySelectorAll('#summary "
                                   "th')].findIndex(  th => th.textContent.trim().split(/\\s/)[0] "
                                   "=== arguments[0])", name)
    assert index >= 0
    return browser.execute_script("return [...document.querySelectorAll('#summary tbody "
                                  "tr')].map(row => {  const cell = row.cells[arguments[0]];  "
                                  "return cell.dataset.value ?? cell.textContent})", index)


def test_the_page_needs_no_other_file(browser, table_page):
    opened(browser, table_page)
    assert browser.title == "Certificates of Saliency"
    used = browser.execute_script("return performance.getEntriesByType('resource').map(entry => "
                                  "entry.name)")
    assert all(name.startswith("data:") for name in used)
    assert len(browser.find_elements(By.CSS_SELECTOR, "script, link, iframe")) == 1
    assert browser.execute_async_script(  # the page may not reach for anything even if it wanted to
                                        "const done = arguments[0]; "
                                        "fetch('https://example.org').then(() => done('fetched'), "
                                        "() => done('refused'))") == "refused"


@pytest.mark.parametrize("page", ["table_page", "image_page"])
def test_all_figures_show(browser, page, request):
    opened(browser, request.getfixturevalue(page))
    browser.execute_script("document.querySelectorAll('details').forEach(part => part.open = true)")
    images = browser.find_elements(By.TAG_NAME, "img")
    assert len(images) == (7 + 4 * 3 if page == "table_page" else 1)
    for image in images:
        browser.execute_script("arguments[0].scrollIntoView()", image)
    widths = browser.execute_async_script(
        "const done = arguments[0]; const images = "
        "[...document.images];Promise.all(images.map(image => image.decode())).then(() => "
        "done(images.map(image => image.naturalWidth)))")
    assert all(width > 300 for width in widths)
    root = "document.documentElement"
    # nothing is beside the page
    assert browser.execute_script(f"return {root}.scrollWidth - {root}.clientWidth") <= 0


@pytest.mark.parametrize(("name", "key"), [("example", int), ("cosine", float), ("linf", float),
                                           ("eps", float), ("prediction", str)])
def test_the_table_sorts(browser, table_page, name, key):
    opened(browser, table_page)
    unsorted = [key(cell) for cell in cells(browser, name)]
    assert len(unsorted) == 36 and header(browser, name).get_attribute("aria-sort") == "none"
    button = header(browser, name).find_element(By.TAG_NAME, "button")
    button.click()
    assert header(browser, name).get_attribute("aria-sort") == "ascending"
    assert [key(cell) for cell in cells(browser, name)] == sorted(unsorted)
    button.send_keys(Keys.ENTER)
    assert header(browser, name).get_attribute("aria-sort") == "descending"
    assert [key(cell) for cell in cells(browser, name)] == sorted(unsorted, reverse=True)
    assert len(browser.find_elements(By.CSS_SELECTOR, "th:not([aria-sort=none])[aria-sort]")) == 1
    if name == "linf":
        assert cells(browser, name)[0] == "inf"


def test_names_sort_by_their_numbers(browser, table_page):
    opened(browser, table_page)
    header(browser, "name").find_element(By.TAG_NAME, "button").click()
    rows = [name for name in cells(browser, "name") if name.startswith("row")]
    assert rows == [f"row {i}" for i in range(1, 12) for _ in EPS]


def test_examples_open(browser, table_page):
    opened(browser, table_page)
    parts = browser.find_elements(By.TAG_NAME, "details")
    assert [part.get_attribute("open") is not None for part in parts] == [True] + 3 * [False]
    table = parts[1].find_elements(By.TAG_NAME, "table")[0]
    assert not table.is_displayed()
    parts[1].find_element(By.TAG_NAME, "summary").click()
    assert table.is_displayed()
    browser.find_element(By.LINK_TEXT, "2").click()
    assert browser.execute_async_script("const done = arguments[0]; setTimeout(() => "
                                        "done(document.getElementById('example-2').open), 50)")


def test_what_is_listed_of_an_example(browser, table_page, rows):
    opened(browser, table_page)
    certificate = rows[0][0.1]
    part = browser.find_element(By.ID, "example-3")
    part.find_element(By.TAG_NAME, "summary").click()
    listed = [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")]
              for row in part.find_elements(By.TAG_NAME, "table")[2].find_elements(By.CSS_SELECTOR,
                                                                                   "tbody tr")]
    order = certificate.nominal[3].abs().argsort(descending=True).tolist()
    words = {1: "positive", -1: "negative", 0: "open"}
    assert listed == [[FEATURES[i], *(f"{float(side[3, i]):.4g}" for side in (
        certificate.nominal, certificate.lower, certificate.upper)),
                       words[int(certificate.sign()[3, i])]] for i in order]


def test_text_of_users_is_text(browser, table_page):
    opened(browser, table_page)
    assert browser.title == "Certificates of Saliency"
    assert NAMES[0] in browser.find_element(By.ID, "example-0").text
    assert "hours & days" in browser.find_element(By.ID, "example-0").text


def test_dark_screens_and_paper(browser, table_page):
    opened(browser, table_page)

    def brightness():
        color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in color[4:-1].split(","))

    try:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
        assert brightness() < 150
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "media": "print", "features": [{"name": "prefers-color-scheme", "value": "light"}]})
        assert brightness() == 3 * 255
        assert ([part.is_displayed() for part in browser.find_elements(By.TAG_NAME, "details")]
                == [True] + 3 * [False])
        last = browser.find_elements(By.CSS_SELECTOR, "#summary tbody tr")[-1]
        frame = browser.find_element(By.CSS_SELECTOR, ".scroll")
        # nothing is cut off
        assert last.rect["y"] + last.rect["height"] <= frame.rect["y"] + frame.rect["height"] + 1
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_only_the_first_examples_get_pictures(browser, image_page):
    opened(browser, image_page)
    assert "The first 1 of 2." in browser.find_element(By.TAG_NAME, "body").text
    assert [a.text for a in browser.find_elements(By.CSS_SELECTOR, "#summary a")] == ["0"]
    assert len(browser.find_elements(By.CSS_SELECTOR, ".features tbody tr")) == 10  # of 192


def test_numbers_are_those_of_the_certificates(rows):
    certificates, predictions = rows
    table = make_table({eps: [part] for eps, part in certificates.items()},
                       [Measure("top_k_overlap", {"k": 2})], NAMES, [1] * 12, predictions)
    assert [column.name for column in table.columns] == [
        "example", "name", "target", "eps", "top_k_overlap(k=2)",
        "mean_width", "predicted", "prediction", "confidence_lower", "confidence_upper"]
    for i, eps in enumerate(EPS):
        part = table.rows[12 * i: 12 * i + 12]
        assert [row[4] for row in part] == certificates[eps].top_k_overlap(2).tolist()
        assert [row[5] for row in part] == pytest.approx(certificates[eps].width.mean(1).tolist())
        assert [row[7] for row in part] == predictions[eps].certain.tolist()
        assert [row[:4] for row in part] == [[n, NAMES[n], 1, eps] for n in range(12)]


def test_settings_may_have_a_row_for_each_of_all_examples(rows):
    whole = rows[0][0.05]
    parts = [dataclasses.replace(whole, lower=whole.lower[part], upper=whole.upper[part],
                                 nominal=whole.nominal[part])
             for part in (slice(0, 5), slice(5, 12))]
    mask = torch.rand(12, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    for settings in ({"mask": mask}, {"mask": mask[0]}):
        expected = whole.metric("mass_upper", **settings)
        assert torch.equal(Measure("mass_upper", settings).of(parts), expected)


def test_assumptions_are_those_of_the_certificate():
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(),
                                torch.nn.Linear(4, 1)).double()
    x = torch.rand(1, 2).double()
    said = {
        "plain": assumptions(lx.certify(Saliency(model), x, eps=0.1)),
        "integral": assumptions(lx.certify(IntegratedGradients(model), x, eps=0.1, n_steps=2,
                                           integral="exact")),
        "expectation": assumptions(
            lx.certify(NoiseTunnel(Saliency(model)), x, eps=0.1, norm=2, abs=False, stdevs=1.0,
                       nt_samples=10, expectation="gaussian", confidence=0.9)),
        "outward": assumptions(lx.certify(Saliency(model), x, eps=0.1, rounding="outward")),
        "predicted": assumptions(lx.certify(Saliency(model), x, eps=0.1), predicted=True),
    }
    for words, kinds in {"the integral along the path": {"integral"},
                         "with probability 0.9 over the 10": {"expectation"},
                         "drawn noise": {"plain", "predicted", "outward"},
                         "computed in float64; the bounds hold up to": set(said) - {"outward"},
                         "proven bound of all rounding errors": {"outward"},
                         "whether the prediction itself changes": set(said)
                         - {"predicted"}}.items():
        assert {kind for kind, sentences in said.items() if words in " ".join(sentences)} == kinds


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"names": ["a"]}, ValueError, "names must be 12; given: 1"),
    ({"features": ["a"]}, ValueError, "features must be 4; given: 1"),
    ({"targets": [0]}, ValueError, "targets must be 12"),
    ({"inputs": torch.zeros(3, 4)}, ValueError, "inputs must be 12"),
    ({"certificates": {}}, ValueError, "no certificates"),
    ({"certificates": {0.1: []}}, ValueError, "no certificates"),
    ({"certificates": [3]}, TypeError, "holds a int"),
    ({"metrics": ["cosin"]}, ValueError, "no metric 'cosin'"),
])
def test_wrong_arguments(rows, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        lx.report(**{"certificates": rows[0], "path": tmp_path / "never.html", **change})
    assert not (tmp_path / "never.html").exists()


def test_radii_must_have_the_same_examples(rows, tmp_path):
    with pytest.raises(ValueError, match="same examples"):
        lx.report({0.01: rows[0][0.01], 0.1: [rows[0][0.1]] * 2}, tmp_path / "never.html")


def test_optional_libraries_are_imported_where_they_are_used(rows, tmp_path, monkeypatch):
    optional = {"jinja2", "PIL", "matplotlib", "selenium"}
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:  # at the top of a file
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else \
                [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not optional & {name.split(".")[0] for name in names}, path
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match="pip install jinja2"):
        lx.report(rows[0], tmp_path / "never.html")
