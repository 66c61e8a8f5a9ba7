"""The figure of the page on verdicts: how often the rule for printed numbers says what."""

import io

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from helpers import plots
from helpers.claims.calibration import frequencies
from helpers.claims.numbers import VERDICTS


def draw(sizes: tuple[int, ...] = (3, 5, 10)) -> bytes:
    """How often the rule for printed numbers gives each verdict, an SVG: shares against the true distance, a panel for each n."""
    distances = np.linspace(0, 4, 33)
    colours = dict(zip(VERDICTS, (plots.PALETTE[2], plots.PALETTE[3], plots.PALETTE[5], plots.INK), strict=True))
    file = io.BytesIO()
    with plt.rc_context():
        plots.use_style()
        plt.rcParams["svg.hashsalt"] = "calibration"
        figure = Figure(figsize=(plots.SIZE[0], 2.6))
        axes = figure.subplots(1, len(sizes), sharey=True)
        for ax, n in zip(axes, sizes, strict=True):
            shares = 100 * frequencies(distances, n).T
            order = [VERDICTS.index(v) for v in ("agrees", "undecided", "within spread", "differs")]
            ax.stackplot(
                distances,
                shares[order],
                colors=[colours[VERDICTS[i]] for i in order],
                alpha=0.8,
                labels=[VERDICTS[i] for i in order],
            )
            ax.axvline(1, color=plots.INK, linestyle=":", linewidth=1)
            ax.set(title=f"{n} networks", xlabel="true distance, in margins", xlim=(0, 4), ylim=(0, 100))
        axes[0].set_ylabel("% of studies")
        figure.legend(*axes[0].get_legend_handles_labels(), ncols=4, loc="upper center", fontsize=9)
        figure.tight_layout(rect=(0, 0, 1, 0.9))
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
