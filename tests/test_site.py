"""The site: built without a warning, complete, offline, and read in a real browser on wide and narrow, light and dark pages."""

import functools
import http.server
import json
import os
import re
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urldefrag

import pytest

from helpers import rows as storage
from helpers import run
from helpers import site as pages_of_rows
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
        self.links, self.ids, self.tags, self.attributes = [], set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.attributes.update(attributes)
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
    links = re.findall(r'<td>(?:<span[^>]*>[^<]*</span> ?|<br>)*<a href="\.\./(results/[^"#]+)#([^"]+)"', table)
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


# pages of rows and the status page, from rows that the test writes


def row_of(paper, profile, run="table1", *, seed=0, args=None, lr=0.1, **changes):
    """A row as a study stores it."""
    args, settings = {**(args or {}), "seed": seed}, {"lr": lr}
    return {
        "run": run,
        "key": storage.key_of(run, args, settings, 1),
        "args": args,
        "metrics": {"accuracy": 0.5},
        "profile": profile,
        "settings": settings,
        "version": 1,
        "seconds": 90.0,
        "utc": "2026-01-02 03:04:05",
        "device": "CPU",
        "versions": {"torch": "2.0"},
        "commit": "abcdef012345",
        "data": {"test": {"name": "mnist/test", "size": 10000, "digest": "0123456789abcdef"}},
        "networks": {"net-0-abc": {"seconds": 60.6}},
        **changes,
    }


def stored(root, paper, profile, *rows):
    """`rows` in the file where a study keeps them."""
    path = root / paper / profile / f"{rows[0]['run']}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def page_of(*rows):
    return pages_of_rows.rows_page(Path(f"p/cpu/{rows[0]['run']}"), list(rows))


def test_a_page_of_rows_names_the_role_of_each_split_and_the_commit_of_each_network():
    known = row_of("p", "cpu", seed=1, networks={"net-1-abc": {"seconds": 7.0, "commit": "fedcba"}})
    page = page_of(row_of("p", "cpu"), known)
    assert "<li>test: mnist/test, 10,000 images, SHA-256 0123456789abcdef…</li>" in page
    assert "net-0-abc (60.6 s, commit –)" in page and "net-1-abc (7.0 s, commit fedcba)" in page


def test_a_page_of_rows_shows_every_version_of_a_split():
    other = row_of("p", "cpu", seed=1, data={"test": {"name": "mnist/test", "size": 5, "digest": "fedcba9876543210"}})
    page = page_of(row_of("p", "cpu"), other)
    assert "SHA-256 0123456789abcdef" in page and "5 images, SHA-256 fedcba9876543210" in page


def test_a_page_of_rows_shows_the_identity_of_the_code_where_a_row_has_one():
    assert '<th scope="col">code</th>' not in page_of(row_of("p", "cpu"))
    page = page_of(row_of("p", "cpu"), row_of("p", "cpu", seed=1, code="0a1b2c3d4e5f", arrays="table1-abc.npz"))
    assert '<th scope="col">code</th>' in page and "<td>0a1b2c3d4e5f</td>" in page and ".npz" not in page


def test_the_cells_of_a_row_stand_under_their_heads():
    rows = [row_of("p", "cpu", args={"a": 1}), row_of("p", "cpu", args={"b": 2}), row_of("p", "cpu", args={"b": 2}, seed=1)]
    page = page_of(*rows)
    head = re.findall(r"<th[^>]*>(.*?)</th>", page)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in re.findall(r"<tr.*?</tr>", page)[1:]]
    assert all(len(line) == len(head) for line in cells)
    assert [line[head.index("b")] for line in cells] == ["–", "2", "2"]
    assert [line[head.index("seed")] for line in cells] == ["0", "0", "1"]


SCRIPT = "<script>document.title='ran'<b>\"'"  # without a slash, so that it can be the name of a run


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"test": {"name": "mnist/test", "size": 1, "digest": SCRIPT}}},
        {"data": {"test": {"name": SCRIPT, "size": 1, "digest": "0"}}},
        {"data": {SCRIPT: {"name": "mnist/test", "size": 1, "digest": "0"}}},
        {"run": SCRIPT},
        {"key": SCRIPT},
        {"args": {"method": SCRIPT}},
        {"args": {SCRIPT: 1}},
        {"metrics": {SCRIPT: 0.5}},
        {"metrics": {"accuracy": SCRIPT}},
        {"settings": {"lr": SCRIPT}},
        {"seconds": SCRIPT},
        {"utc": SCRIPT},
        {"device": SCRIPT},
        {"versions": {"torch": SCRIPT}},
        {"commit": SCRIPT},
        {"code": SCRIPT},
        {"networks": {SCRIPT: {"seconds": 1}}},
        {"networks": {"net": {"seconds": SCRIPT}}},
        {"networks": {"net": {"seconds": 1, "commit": SCRIPT}}},
    ],
    ids=json.dumps,
)
def test_nothing_of_a_row_is_taken_for_html(changes):
    row = row_of("p", "cpu", args=changes.pop("args", None)) | changes
    page = page_of(row)
    assert "<script" not in page and "document.title" in page
    parsed = _Page(page)
    assert parsed.tags <= {*("h1", "h2", "p", "a", "ul", "li", "pre", "div", "table", "thead", "tbody", "tr", "th", "td")}
    assert parsed.attributes <= {"href", "id", "class", "scope"}


def test_nothing_of_a_figure_ends_its_script_or_its_attributes():
    figure = {"data": [{"name": "</script><!--<script>"}], "layout": {"height": '1" onclick="x'}, "div": '"><b>'}
    data = SimpleNamespace(mime_type=pages_of_rows.PLOTLY, content=figure, cell_index=0, cell_metadata={})
    with pytest.raises(ValueError, match="float"):
        pages_of_rows.PlotlyRenderer.handle_mime(None, data, False)
    figure["layout"]["height"] = 300
    html = pages_of_rows.PlotlyRenderer.handle_mime(None, data, False)[0].astext()
    assert "height:300px" in html and html.count("<script") == 1 and html.count("</script") == 1
    assert "<!--" not in html and "<b>" not in html
    text = re.search(r"<script[^>]*>(.*?)</script>", html)[1]
    assert json.loads(text) == figure, "the same figure is read"


def lines_of(html):
    """The lines of a table of stored rows: what is in their cells."""
    return [
        [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", line)]
        for line in re.findall(r"<tr>.*?</tr>", html)[1:]
    ]


def test_all_stored_rows_of_a_paper_are_counted_file_by_file(tmp_path):
    assert "No rows" in pages_of_rows.stored_rows(tmp_path, "p", "results")
    stored(tmp_path, "p", "smoke", row_of("p", "smoke"))
    stored(tmp_path, "p", "paper", row_of("p", "paper", utc="2026-05-06 07:08:09"), row_of("p", "paper", seed=7))
    stored(tmp_path, "p", "cpu", row_of("p", "cpu", "a&b"), row_of("p", "cpu", "a&b", lr=0.2), row_of("p", "cpu", "a&b", lr=0.3))
    stored(tmp_path, "q", "cpu", row_of("q", "cpu", "another"))
    html = pages_of_rows.stored_rows(tmp_path, "p", "../results")
    assert lines_of(html) == [
        ["a&amp;b", "cpu", "3", "1", "3", "4.5", "2026-01-02"],
        ["table1", "paper", "2", "2", "1", "3.0", "2026-05-06"],
        ["table1", "smoke", "1", "1", "1", "1.5", "2026-01-02"],
    ]
    assert 'href="../results/p/paper/table1.html"' in html


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A site of a front page and a status page, with rows that are complete at smoke and begun at paper; and its folder."""
    source = tmp_path_factory.mktemp("small")
    (source / "book").mkdir()
    (source / "_config.yml").write_text(
        "title: small\nonly_build_toc_files: true\nexecute: {execute_notebooks: 'off'}\n"
        "sphinx: {extra_extensions: [helpers.site]}\n",
        encoding="utf-8",
    )
    (source / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters: [{file: book/status}]\n", encoding="utf-8")
    (source / "intro.md").write_text("# Small\n", encoding="utf-8")
    (source / "book/status.md").write_text("# Status\n\n## p\n\n```{stored-rows} p\n```\n", encoding="utf-8")
    stored(source / "results", "p", "smoke", row_of("p", "smoke"), row_of("p", "smoke", seed=1))
    stored(source / "results", "p", "paper", row_of("p", "paper", device=SCRIPT))
    run.BUILD.mkdir(exist_ok=True)
    return run.build_site(source, tmp_path_factory.mktemp("html") / "html").parent


def test_a_better_profile_that_is_begun_is_on_the_status_page_though_no_chapter_changed(small):
    status = (small / "book/status.html").read_text(encoding="utf-8")
    assert [line[:3] for line in lines_of(status)] == [["table1", "paper", "1"], ["table1", "smoke", "2"]]
    for link in re.findall(r'href="(\.\./results/p/[^"]+)"', status):
        assert (small / "book" / link).exists()
    page = (small / "results/p/paper/table1.html").read_text(encoding="utf-8")
    assert "document.title" in page and SCRIPT not in page
    assert 'href="p/paper/table1.html"' in (small / "results/index.html").read_text(encoding="utf-8")


def test_the_status_page_lists_every_file_of_rows(site):
    status = (site / "book/status.html").read_text(encoding="utf-8")
    files = [p.relative_to(ROOT / "results").with_suffix(".html").as_posix() for p in (ROOT / "results").glob("*/*/*.jsonl")]
    assert files and all(f'href="../results/{name}"' in status for name in files)


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
@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), pytest.param(1280, "dark", marks=pytest.mark.long), (390, "light")]
)
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
