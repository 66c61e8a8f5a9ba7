"""The site: built without a warning, complete, offline, and read in a real browser on wide and narrow, light and dark pages."""

import functools
import http.server
import os
import re
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from helpers import run
from helpers.rows import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("google-chrome", "chromium", "chromium-browser"))), None)
browsing = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"),
    reason="NO BROWSER: the pages were not looked at; install chromium for these tests",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    run.BUILD.mkdir(exist_ok=True)
    return run.build_site(ROOT, tmp_path_factory.mktemp("site") / "html").parent


def pages(site: Path) -> list[Path]:
    return [p for p in sorted(site.rglob("*.html")) if "_static" not in p.parts]


def test_every_page_of_the_contents_is_there(site):
    import yaml

    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = [page for c in toc["chapters"] for page in (c, *c.get("sections", []))]
    names = [toc["root"], *(page["file"] for page in pages)]
    assert all((site / f"{name}.html").exists() for name in names)
    assert {p.stem for p in run.chapters()} <= {Path(name).name for name in names}
    assert (site / "index.html").exists()


class _Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if attributes.get("id"):
            self.ids.add(attributes["id"])
        for name in ("href", "src"):
            if attributes.get(name):
                self.links.append(attributes[name])


def test_every_link_within_the_site_leads_somewhere(site):
    parsed = {p: _Page(p.read_text(encoding="utf-8")) for p in pages(site)}
    broken = []
    for page, content in parsed.items():
        for link in content.links:
            target, fragment = urldefrag(link)
            if re.match(r"[a-z]+:|//", target):
                continue
            path = (page.parent / unquote(target.partition("?")[0])).resolve() if target else page
            if not path.exists():
                broken.append(f"{page.name} -> {link}")
            elif fragment and path in parsed and unquote(fragment) not in parsed[path].ids:
                broken.append(f"{page.name} -> {link} (no such anchor)")
    assert not broken


def test_every_number_of_a_table_is_one_click_from_its_rows(site):
    page = (site / "book/01_learning_with_adversary.html").read_text(encoding="utf-8")
    table = re.search(r'<table class="claims paper-table">.*?</table>', page, re.S)[0]
    assert len(re.findall(r"<td>", table)) == 25
    links = re.findall(r'<td><a href="\.\./(results/[^"#]+)#([^"]+)"', table)
    assert len(links) == 25
    rows = (site / links[0][0]).read_text(encoding="utf-8")
    group = re.search(rf'<tr id="{links[0][1]}".*?</tr>', rows, re.S)[0]
    raw = (site / links[0][0]).with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", group) and raw[0][:7] == '{"run":'


def test_pages_stay_small_and_load_plotly_only_where_there_is_a_figure(site):
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        assert len(text) < 1_000_000, page.name
        assert ("plotly.min.js" in text) == ('class="figure-plotly"' in text), page.name


def test_the_front_page_shows_the_scoreboard(site):
    text = (site / "book/intro.html").read_text(encoding="utf-8")
    for path in run.chapters():
        assert f'href="{path.stem}.html"' in text
    assert 'class="claims scoreboard"' in text


@pytest.fixture(scope="module")
def served(site):
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        quiet = [
            "--no-sandbox",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
        ]
        yield p.chromium.launch(executable_path=CHROMIUM, args=quiet)


def opened(browser, served, name, width, scheme):
    """A tab on a page with everything but the site blocked, and what it complained of."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.add_init_script(f"localStorage.setItem('mode', '{scheme}'); localStorage.setItem('theme', '{scheme}')")
    tab, complaints = context.new_page(), []

    def route(r):
        inside = r.request.url.startswith((served, "data:", "blob:"))
        if not inside:
            complaints.append(f"asked for {r.request.url}")
        r.continue_() if inside else r.abort()

    tab.route("**/*", route)
    tab.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda e: complaints.append(str(e)))
    tab.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    tab.goto(served + name, wait_until="load")
    figures = tab.locator(".figure-plotly").count()
    tab.wait_for_function(f"document.querySelectorAll('.figure-plotly .main-svg').length >= {figures}", timeout=60_000)
    tab.wait_for_timeout(500)
    return tab, complaints


NAMES = [
    "book/intro.html",
    "book/how_to_run.html",
    "book/status.html",
    *(f"book/{p.stem}.html" for p in run.chapters()),
    "results/index.html",
]


@browsing
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_a_page_reads_well_without_a_network(browser, served, name, width, scheme):
    tab, complaints = opened(browser, served, name, width, scheme)
    assert not complaints
    assert tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 2
    assert (
        tab.evaluate("[...document.querySelectorAll('main img')].filter(i => !(i.alt || '').trim() || !i.naturalWidth).length")
        == 0
    )
    assert "WebGL is not supported" not in tab.inner_text("body")
    if tab.locator("table.claims td").count():
        ink, paper = tab.evaluate("""() => {
            const cell = document.querySelector('table.claims td');
            const light = (c) => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number); return 0.2126*r + 0.7152*g + 0.0722*b; };
            return [light(getComputedStyle(cell).color), light(getComputedStyle(document.body).backgroundColor)]; }""")
        assert abs(ink - paper) > 100, "the table cannot be told from the page"
    tab.context.close()


@browsing
def test_a_drag_turns_the_camera(browser, served):
    tab, complaints = opened(browser, served, "book/01_learning_with_adversary.html", 1280, "light")
    plot = tab.locator("#ch1-pca")
    plot.scroll_into_view_if_needed()
    tab.wait_for_function("document.querySelectorAll('#ch1-pca canvas').length > 0")
    eye = "JSON.stringify(document.getElementById('ch1-pca')._fullLayout.scene._scene.getCamera().eye)"
    before, box = tab.evaluate(eye), plot.bounding_box()
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + 80, y + 30, steps=8)
    tab.mouse.up()
    tab.wait_for_timeout(500)
    assert tab.evaluate(eye) != before and not complaints
    tab.context.close()


@browsing
def test_the_slider_changes_the_picture_and_the_theme_the_ink(browser, served):
    tab, complaints = opened(browser, served, "book/01_learning_with_adversary.html", 1280, "light")
    bars = "JSON.stringify(document.getElementById('ch1-eps').data.filter(t => t.type === 'bar').map(t => Array.from(t.y)))"
    before = tab.evaluate(bars)
    tab.evaluate(
        "Plotly.animate('ch1-eps', ['0'], {mode: 'immediate', frame: {duration: 0, redraw: true}, transition: {duration: 0}})"
    )
    tab.wait_for_timeout(500)
    assert tab.evaluate(bars) != before
    ink = "document.getElementById('ch1-pca').layout.font.color"
    light = tab.evaluate(ink)
    tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    tab.wait_for_timeout(500)
    assert tab.evaluate(ink) != light and not complaints
    tab.context.close()
