"""The site's side of the book: a Sphinx extension and a MyST-NB renderer. Nothing else imports this.

- plotly figures are drawn in the reader's browser from the JSON that the notebook stores, with a local plotly.js that only pages
  with a figure load
- every file of rows under `results/` becomes a page, so that a number in a table is one click from the runs behind it
"""

import json
import shutil
from html import escape
from pathlib import Path

from docutils import nodes

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
        height = figure["layout"].get("height", 450)
        text = json.dumps(figure, separators=(",", ":")).replace("</", "<\\/")
        html = (
            f'<div class="figure-plotly" id="{escape(figure.get("div", f"figure-{data.cell_index}"))}" role="img" '
            f'aria-label="{escape(caption)}" style="height:{height}px"><script type="application/json">{text}</script></div>'
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
        body = rows_page(name, list(storage.read(path).values()))
        yield f"results/{name.as_posix()}", {"title": f"Rows: {name}", "body": body}, "page.html"
        index.append(f'<li><a href="{name.as_posix()}.html">{name.as_posix()}</a></li>')
    body = f"<h1>Rows behind the numbers</h1><p>One page for each experiment at each profile.</p><ul>{''.join(index)}</ul>"
    yield "results/index", {"title": "Rows behind the numbers", "body": body}, "page.html"


def rows_page(name: Path, rows: list[dict]) -> str:
    """The rows of one file as HTML: settings and data once, then a line per row, grouped by its arguments other than the seed."""
    groups = list(dict.fromkeys(map(storage.group_of, rows)))
    rows = sorted(rows, key=lambda r: (groups.index(storage.group_of(r)), r["args"]["seed"]))
    first = rows[0]
    arguments, metrics = list(first["args"]), list(dict.fromkeys(m for r in rows for m in r["metrics"]))
    head = [
        *arguments,
        *metrics,
        "seconds",
        "networks (training seconds)",
        "made (UTC)",
        "commit",
        "device",
        "torch",
        "key",
    ]
    lines, seen = [], {}
    for r in rows:
        name_of_group = storage.group_of(r)
        at = "" if name_of_group in seen else f' id="{name_of_group}"'
        mine = [v for k, v in r["args"].items() if k != "seed"]
        if seen.setdefault(name_of_group, mine) != mine:
            raise ValueError(f"{name}: {mine} and {seen[name_of_group]} would share the anchor {name_of_group}")
        values = [
            *r["args"].values(),
            *(r["metrics"].get(m, "–") for m in metrics),
            r["seconds"],
            ", ".join(f"{n} ({t})" for n, t in r["networks"].items()),
            r["utc"],
            r["commit"],
            r["device"],
            r["versions"]["torch"],
        ]
        tds = "".join(f"<td>{escape(str(v))}</td>" for v in values)
        lines.append(f'<tr{at} class="{name_of_group}">{tds}<td id="{r["key"]}">{r["key"]}</td></tr>')
    data = {n: d for r in rows for n, d in r["data"].items()}
    about = "".join(f"<li>{escape(n)}: {d['size']:,} images, SHA-256 {d['digest']}…</li>" for n, d in data.items())
    settings = "".join(f"<li><pre>{escape(s)}</pre></li>" for s in dict.fromkeys(json.dumps(r["settings"]) for r in rows))
    return (
        f"<h1>{escape(name.name)}, profile {escape(name.parts[1])}</h1>"
        f"<p>Each line is one network under one evaluation, stored the moment it was measured. The file itself: "
        f'<a href="{name.name}.jsonl">{name.name}.jsonl</a>.</p>'
        f"<h2>Settings</h2><ul>{settings}</ul><h2>Data</h2><ul>{about}</ul><h2>Rows</h2>"
        f'<div class="wide"><table class="claims rows"><thead><tr>{"".join(f"<th>{escape(h)}</th>" for h in head)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


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
    app.connect("html-collect-pages", rows_pages)
    app.connect("html-page-context", add_scripts, priority=900)
    app.connect("build-finished", copy_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
