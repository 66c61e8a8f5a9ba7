"""Figures: one palette, one size, legible on light and on dark pages."""

import base64
import io
import json
import sys

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from PIL import Image

from helpers import names

# Okabe & Ito's palette, told apart with any colour vision; black is left out, it vanishes on a dark page
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#999999", "#7A4FBF", "#8C564B")
INK = "#808080"  # reads on white and on near-black alike
SIZE = (7.0, 4.0)  # inches, of every matplotlib figure
HEIGHT = 480  # pixels, of every plotly figure
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


def use_style() -> None:
    """Give matplotlib the book's look: transparent, grey ink, the palette in order."""
    plt.rcParams.update(
        {
            "figure.figsize": SIZE,
            "figure.dpi": 110,
            "savefig.transparent": True,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.titlecolor": INK,
            "legend.frameon": False,
            "axes.grid": True,
            "grid.color": INK,
            "grid.alpha": 0.25,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.size": 11,
            "axes.prop_cycle": plt.cycler(color=PALETTE),
            "lines.linewidth": 2,
            "image.cmap": "gray",
        }
    )


def show(figure: go.Figure, div: str) -> None:
    """Display a plotly figure under a fixed id, so that a page built twice is the same page."""
    if "google.colab" in sys.modules:
        figure.show(renderer="colab")
        return
    from IPython.display import display

    display({"application/vnd.plotly.v1+json": {**json.loads(figure.to_json()), "div": div}}, raw=True)


def _layout(figure: go.Figure, **options) -> go.Figure:
    font = {"color": INK, "size": 13}
    return figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font=font,
        height=HEIGHT,
        **options,
    )


SYMBOLS = ("circle", "diamond-open", "square-open", "cross")  # plotly's, in the order of a plot's kinds
SIGNS = ("●", "◇", "□", "✚")


def pca3d(
    panels: dict[str, dict[str, np.ndarray]],
    classes: tuple[str, ...],
    kinds: tuple[str, ...] = ("clean", "adversarial"),
    *,
    color_by: str = "class",
) -> go.Figure:
    """3D scatter of projected features, one panel per network, one symbol for each kind of sample.

    panels : {title: {"explained": (3,) shares of variance; "label": (N,); and for each kind: kind: (N, 3) points, and under
        `names.PREDICTION`, `names.CONFIDENCE`: (N,), and under `names.LABEL` where they are other samples}}
    classes : names of all labels and predictions
    color_by : "class", or "kind" where the classes do not matter or are too many
    One legend entry per colour toggles it in all panels; hovering shows class, prediction and confidence.
    """
    if color_by not in ("class", "kind"):
        raise ValueError(f"color_by must be class or kind, not {color_by!r}")
    figure, scenes, listed = go.Figure(), {}, set()
    for number, (title, a) in enumerate(panels.items()):
        scene = "scene" if number == 0 else f"scene{number + 1}"
        scenes[scene] = _scene(number, len(panels), a["explained"])
        for k, kind in enumerate(kinds):
            prediction, confidence = (a[name.format(kind=kind)] for name in (names.PREDICTION, names.CONFIDENCE))
            labels = a.get(names.LABEL.format(kind=kind), a["label"])
            read = zip(labels, prediction, confidence, strict=True)
            hover = np.array([f"{kind} {classes[c]}, read as {classes[p]} ({share:.0%})" for c, p, share in read])
            groups = (
                [(name, c, labels == c) for c, name in enumerate(classes) if (labels == c).any()]
                if color_by == "class"
                else [(kind, k, np.ones(len(labels), dtype=bool))]
            )
            for name, c, members in groups:
                x, y, z = np.round(a[kind][members], 2).T.astype(np.float32)  # arrays are stored compactly, lists line by line
                figure.add_scatter3d(
                    x=x,
                    y=y,
                    z=z,
                    mode="markers",
                    scene=scene,
                    name=name,
                    legendgroup=name,
                    showlegend=name not in listed,
                    text=hover[members].tolist(),
                    hoverinfo="text",
                    marker={"size": 3, "symbol": SYMBOLS[k], "color": PALETTE[c % len(PALETTE)], "opacity": 0.9},
                )
                listed.add(name)
        figure.add_annotation(
            text=f"{title}: " + ", ".join(f"{sign} {kind}" for sign, kind in zip(SIGNS, kinds, strict=False))
            if color_by == "class"
            else title,
            xref="paper",
            yref="paper",
            x=(number + 0.5) / len(panels),
            y=1.0,
            xanchor="center",
            yanchor="top",
            showarrow=False,
        )
    title = {"text": "class"} if color_by == "class" else {}
    legend = {"orientation": "h", "y": -0.02, "title": title, "itemsizing": "constant"}
    return _layout(figure, margin={"l": 0, "r": 0, "t": 10, "b": 10}, legend=legend, **scenes)


def _scene(number: int, panels: int, explained: np.ndarray) -> dict:
    """The layout of one 3D panel of several side by side."""
    look = {"showticklabels": False, "gridcolor": INK, "zerolinecolor": INK, "showbackground": False}
    axes = {
        axis: {"title": {"text": f"PC {i + 1} ({share:.0%})"}, **look}
        for i, (axis, share) in enumerate(zip(("xaxis", "yaxis", "zaxis"), explained, strict=True))
    }
    domain = {"x": [number / panels, (number + 1) / panels], "y": [0, 0.93]}
    return {"domain": domain, "camera": {"eye": {"x": 1.5, "y": 1.5, "z": 0.9}}, **axes}


def eps_slider(eps: np.ndarray, panels: dict[str, dict[str, np.ndarray]], classes: tuple[str, ...], start: float) -> go.Figure:
    """One slider over the attack's radius: per network the attacked image, the perturbation and the class probabilities.

    eps : (E,) radii; start : the one shown first
    panels : {title: {"image": (E, H, W) in [0, 1], or (E, 3, H, W) in colour, "shift": of the same shape, "probability": (E, K)}}
    """
    figure = go.Figure()
    width = 1 / len(panels)

    def traces(step: int) -> list:
        out = []
        for number, a in enumerate(panels.values()):
            n = 3 * number + 1
            shift = 0.5 + 0.5 * a["shift"][step] / max(abs(a["shift"]).max(), 1e-9)
            out.append(_picture(a["image"][step], "Greys_r", xaxis=f"x{n}", yaxis=f"y{n}"))
            out.append(_picture(shift, "RdBu", xaxis=f"x{n + 1}", yaxis=f"y{n + 1}"))
            out.append(
                go.Bar(
                    x=list(classes),
                    y=np.round(a["probability"][step], 3).tolist(),
                    xaxis=f"x{n + 2}",
                    yaxis=f"y{n + 2}",
                    marker={"color": PALETTE[0]},
                    showlegend=False,
                    hoverinfo="x+y",
                )
            )
        return out

    first = int(np.abs(np.asarray(eps) - start).argmin())
    figure.add_traces(traces(first))
    figure.frames = [go.Frame(name=f"{e:g}", data=traces(i)) for i, e in enumerate(eps)]
    axes = {}
    for number, title in enumerate(panels):
        left = number * width
        for part, (x0, x1, y0, y1) in enumerate([(0.02, 0.46, 0.45, 0.95), (0.52, 0.96, 0.45, 0.95), (0.05, 0.96, 0.05, 0.36)]):
            n = 3 * number + part + 1
            picture = part < 2
            axes[f"xaxis{n}"] = {
                "domain": [left + x0 * width, left + x1 * width],
                "anchor": f"y{n}",
                "visible": not picture,
                "type": "category" if not picture else None,
            }
            axes[f"yaxis{n}"] = {
                "domain": [y0, y1],
                "anchor": f"x{n}",
                "visible": not picture,
                "color": INK,
                "gridcolor": INK,
            }
            axes[f"yaxis{n}"] |= {"autorange": "reversed", "scaleanchor": f"x{n}"} if picture else {"range": [0, 1], "dtick": 0.5}
        figure.add_annotation(
            text=title, xref="paper", yref="paper", x=left + width / 2, y=1.06, xanchor="center", showarrow=False
        )
    steps = [
        {
            "label": f"{e:g}",
            "method": "animate",
            "args": [
                [f"{e:g}"],
                {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}},
            ],
        }
        for e in eps
    ]
    slider = {
        "steps": steps,
        "active": first,
        "currentvalue": {"prefix": "ε = "},
        "pad": {"t": 35},
        "len": 0.96,
        "x": 0.02,
    }
    return _layout(figure, margin={"l": 10, "r": 10, "t": 40, "b": 10}, sliders=[slider], **axes)


def _picture(image: np.ndarray, colours: str, **axes) -> go.Heatmap | go.Image:
    """A grey image (H, W) in a scale of colours, or a colour image (3, H, W) as it is."""
    if image.ndim == 2:
        scale = {"zmin": 0, "zmax": 255, "showscale": False, "colorscale": colours}
        return go.Heatmap(z=_bytes(image), hoverinfo="skip", **scale, **axes)
    file = io.BytesIO()
    Image.fromarray(_bytes(image.transpose(1, 2, 0))).save(file, "PNG")
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return go.Image(source=source, hoverinfo="skip", **axes)


def _bytes(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
