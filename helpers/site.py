"""The site's side of the book: a Sphinx extension and a MyST-NB renderer. Nothing else imports this.

- plotly figures are drawn in the reader's browser from the JSON that the notebook stores, with a local plotly.js that only pages
  with a figure load
- every file of rows under `results/` becomes a page, so that a number in a table is one click from the runs behind it
- the directive `stored-rows` lists the files of rows of a paper, read when the site is built, not when its chapter was run
- the directive `verdict-calibration` draws how often the rule for printed numbers says what
"""

import base64
import json
import shutil
from html import escape
from pathlib import Path
from urllib.parse import quote

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from helpers import rows as storage

PLOTLY = "application/vnd.plotly.v1+json"


class PlotlyRenderer:
    """MyST-NB plugin: a stored plotly figure becomes a `<div>` with its JSON, which `figures.js` draws."""

    mime_priority_overrides = [("*", PLOTLY, 5)]

    @staticmethod
    def handle_mime(renderer, data, inline):
        if inline or data.mime_type != PLOTLY:
            return None
        figure = data.content if isinstance(data.content, dict) else json.loads(data.content)
        caption = data.cell_metadata.get("mystnb", {}).get("figure", {}).get("caption", "interactive figure")
        height = float(figure["layout"].get("height", 450))
        text = json.dumps(figure, separators=(",", ":")).replace("<", "\\u003c")  # no `</script>` or `<!--` in a script
        html = (
            f'<div class="figure-plotly" id="{escape(figure.get("div", f"figure-{data.cell_index}"))}" role="img" '
            f'aria-label="{escape(caption)}" style="height:{height:g}px"><script type="application/json">{text}</script></div>'
        )
        return [nodes.raw(text=html, format="html", classes=["output"])]


def add_scripts(app, pagename, templatename, context, doctree):
    """Load plotly on pages with a figure, point row links at the rows' pages, and declare nothing that is not used."""
    # sphinx-thebe declares its constants twice, which logs an error on every page; live code cells are off in this book
    scripts = context.get("script_files", [])
    scripts[:] = [s for s in scripts if "THEBE_JS_URL" not in str(getattr(s, "attributes", ""))]
    body = context.get("body") or ""
    if 'class="figure-plotly"' in body:
        body += "".join(
            f'<script src="{context["pathto"](f"_static/{name}", 1)}"></script>' for name in ("plotly.min.js", "figures.js")
        )
    context["body"] = body.replace(".jsonl#", ".html#")


def rows_pages(app):
    """A page for each file of rows, and an index of them."""
    root = Path(app.srcdir) / "results"
    index = []
    for path in sorted(root.glob("*/*/*.jsonl")):
        name = path.relative_to(root).with_suffix("")
        rows = list(storage.read(path).values())
        if rows:  # a file of none has no page
            yield f"results/{name.as_posix()}", {"title": escape(f"Rows: {name}"), "body": rows_page(name, rows)}, "page.html"
            index.append(f'<li><a href="{quote(name.as_posix())}.html">{escape(name.as_posix())}</a></li>')
    body = f"<h1>Rows behind the numbers</h1><p>One page for each experiment at each profile.</p><ul>{''.join(index)}</ul>"
    yield "results/index", {"title": "Rows behind the numbers", "body": body}, "page.html"


def rows_page(name: Path, rows: list[dict]) -> str:
    """The rows of one file as HTML: settings and data once, then a line per row, grouped by its arguments other than the seed."""
    groups = list(dict.fromkeys(map(storage.group_of, rows)))
    rows = sorted(rows, key=lambda r: (groups.index(storage.group_of(r)), r["args"]["seed"]))
    arguments, metrics = (list(dict.fromkeys(k for r in rows for k in r[field])) for field in ("args", "metrics"))
    about = {
        "seconds": lambda r: r["seconds"],
        "networks (training)": lambda r: ", ".join(f"{n} ({_training(t)})" for n, t in r["networks"].items()),
        "made (UTC)": lambda r: r["utc"],
        "commit": lambda r: r["commit"],
        **({"code": lambda r: r.get("code", "–")} if any("code" in r for r in rows) else {}),
        "device": lambda r: r["device"],
        "torch": lambda r: r["versions"]["torch"],
    }
    lines, seen = [], {}
    for r in rows:
        name_of_group = storage.group_of(r)
        at = "" if name_of_group in seen else f' id="{escape(name_of_group)}"'
        mine = [v for k, v in r["args"].items() if k != "seed"]
        if seen.setdefault(name_of_group, mine) != mine:
            raise ValueError(f"{name}: {mine} and {seen[name_of_group]} would share the anchor {name_of_group}")
        numbers = [r[field].get(k, "–") for field, names in (("args", arguments), ("metrics", metrics)) for k in names]
        values = [*numbers, *(value(r) for value in about.values())]
        key = escape(str(r["key"]))
        lines.append(f'<tr{at} class="{escape(name_of_group)}">{_cells(values)}<td id="{key}">{key}</td></tr>')
    data = dict.fromkeys(
        f"{role}: {d['name']}, {d['size']:,} images, SHA-256 {d['digest']}…" for r in rows for role, d in r["data"].items()
    )
    settings = dict.fromkeys(json.dumps(r["settings"]) for r in rows)
    return (
        f"<h1>{escape(name.name)}, profile {escape(name.parts[1])}</h1>"
        f"<p>Each line is one network under one evaluation, stored the moment it was measured. The file itself: "
        f'<a href="{quote(name.name)}.jsonl">{escape(name.name)}.jsonl</a>.</p>'
        f"<h2>Settings</h2><ul>{''.join(f'<li><pre>{escape(s)}</pre></li>' for s in settings)}</ul>"
        f"<h2>Data</h2><ul>{''.join(f'<li>{escape(d)}</li>' for d in data)}</ul>"
        f"<h2>Rows</h2>{_table([*arguments, *metrics, *about, 'key'], lines, 'rows')}"
    )


def _training(network: dict) -> str:
    return f"{network['seconds']} s, commit {network.get('commit', '–')}"


def _cells(values) -> str:
    return "".join(f"<td>{escape(str(v))}</td>" for v in values)


def _table(head: list[str], lines: list[str], kind: str) -> str:
    columns = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    body = f"<thead><tr>{columns}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table class="claims {kind}">{body}</table></div>'


class StoredRows(SphinxDirective):
    """`stored-rows`, with the name of a paper's folder under `results/`: a table of its files of rows at all profiles."""

    required_arguments = 1

    def run(self):
        self.env.note_reread()  # rows may be added without a change of the page
        root = Path(self.env.srcdir) / "results"
        up = "../" * self.env.docname.count("/")
        return [nodes.raw(text=stored_rows(root, self.arguments[0], f"{up}results"), format="html")]


def stored_rows(root: Path, paper: str, link: str) -> str:
    """An HTML table of all rows that are stored for a paper: a line per file. `link` leads to the folder of the rows' pages."""
    paths = sorted(root.glob(f"{paper}/*/*.jsonl"), key=lambda path: (path.stem, path.parent.name))
    lines = []
    for path in paths:
        rows = list(storage.read(path).values())
        name = path.relative_to(root).with_suffix("")
        title = f'<a href="{link}/{quote(name.as_posix())}.html">{escape(name.name)}</a>' if rows else escape(name.name)
        values = (
            name.parts[1],
            len(rows),
            len({r["args"]["seed"] for r in rows}),
            len({storage.canonical([r["settings"], r["version"]]) for r in rows}),
            f"{sum(r['seconds'] for r in rows) / 60:.1f}",
            max((r["utc"] for r in rows), default="–")[:10],
        )
        lines.append(f'<tr><th scope="row">{title}</th>{_cells(values)}</tr>')
    head = ["experiment", "profile", "rows", "seeds", "settings", "minutes", "last row"]
    return _table(head, lines, "stored") if lines else "<p>No rows are stored.</p>"


class VerdictCalibration(SphinxDirective):
    """`verdict-calibration`: how often each verdict is given, by the true distance and the number of networks."""

    def run(self):
        from helpers.calibration_figure import draw

        alt = "Shares of the four verdicts against the true distance in margins, for 3, 5 and 10 networks."
        caption = (
            "How often the rule gives each verdict where the truth is known: 2,000 simulated studies at each distance. The paper "
            "prints one run, and runs scatter by half a margin. The distance is that of the two expectations. "
            "<em>Differs</em> is rare up to one margin. <em>Agrees</em> speaks of the number as printed, which one lucky run can "
            "bring near ours. The wide middle is what one printed run leaves open."
        )
        picture = f'<img alt="{alt}" src="data:image/svg+xml;base64,{base64.b64encode(draw()).decode()}">'
        return [nodes.raw(text=f"<figure>{picture}<figcaption><p>{caption}</p></figcaption></figure>", format="html")]


def copy_files(app, error):
    """Put plotly.js beside the other scripts, and the raw rows beside their pages."""
    if error is not None or app.builder.format != "html":
        return
    import plotly

    shutil.copy(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", Path(app.outdir) / "_static" / "plotly.min.js")
    root = Path(app.srcdir) / "results"
    for path in root.glob("*/*/*.jsonl"):
        shutil.copy(path, Path(app.outdir) / "results" / path.relative_to(root))


def setup(app):
    app.add_directive("stored-rows", StoredRows)
    app.add_directive("verdict-calibration", VerdictCalibration)
    app.connect("html-collect-pages", rows_pages)
    app.connect("html-page-context", add_scripts, priority=900)
    app.connect("build-finished", copy_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
