"""Figures of the page on trust, made from the stored results; they have no background, for light and dark pages."""

import matplotlib
import numpy as np
from tables import measured

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, THEIRS, GREY = "#d9822b", "#3b8dbd", "#888888"
STYLE = {
    "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
    "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "mrsxr", "savefig.transparent": True,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "figure.constrained_layout.use": True,
}  # fmt: skip


def columns(name, *heads):
    """Return columns of a table of ``_data``, of the rows in which the first of them says something."""
    _, head, rows = measured(name)
    at = [head.index(one) for one in heads]
    return list(zip(*([row[k] for k in at] for row in rows if row[at[0]]), strict=True))


def lines_kept(ax):
    """Draw which part of injected lines is kept."""
    found = columns("other_truths.csv", "_group", "_jwst_low", "_jwst_high", "_low", "_high", "_goal_low", "_goal_high")
    numbers = np.array(found[1:], float)
    y = np.arange(len(found[0]))[::-1]
    ax.barh(y, numbers[5] - numbers[4], 0.8, numbers[4], color=GREY, alpha=0.25, label="goal")
    shown = (numbers[:2], 0.15, THEIRS, "jwst's algorithm"), (numbers[2:4], -0.15, OURS, "optimal")
    for (low, high), up, color, label in shown:
        ax.hlines(y + up, low, high, color, lw=4, label=label)
    ax.axvline(1, color=GREY, lw=0.8)
    ax.set_yticks(y, found[0])
    ax.set(xlabel="part of the flux of an injected line that is kept, least to largest", xlim=(0.6, 1.3))
    ax.legend(loc="upper right")


def cost(ax):
    """Draw by what factor mrsxr is cheaper."""
    ratio, names = columns("cost.csv", "_ratio", "cost of four exposures")
    y, ratio = np.arange(len(names))[::-1], np.array(ratio, float)
    ax.barh(y, ratio - 1, 0.6, 1.0, color=[GREY if "memory" in name else OURS for name in names])
    for at, one in zip(y, ratio, strict=True):
        ax.text(one * 1.05, at, f"{one:g}", va="center")
    ax.set_yticks(y, names)
    ax.set(xscale="log", xlim=(1, 400), xlabel="jwst over mrsxr (grey: memory)")


def real_cubes(ax):
    """Draw by how much spectra of real cubes differ."""
    heads = [f"{name}: largest difference" for name in ("FLUX", "SURF_BRIGHT", "BACKGROUND", "RF_FLUX")]
    cube, kind, *numbers = columns("real_cubes.csv", "cube", "type", *heads)
    y = np.arange(len(cube))[::-1]
    for found, head, marker in zip(numbers, heads, "osd^", strict=True):
        values = np.maximum(np.array(found, float), 1e-17)  # 0 does not fit on the axis
        ax.plot(values, y, marker, color=OURS, mfc="none", label=head.partition(":")[0])
    ax.set_yticks(y, [f"{a}, {b.lower()}" for a, b in zip(cube, kind, strict=True)])
    ax.set(xscale="log", xlim=(5e-18, 1e-3))
    ax.set_xlabel("largest difference from jwst 3.0.0 over the median (at the left edge: none)")
    ax.legend(loc="center right")


def draw_all(folder):
    """Write all figures."""
    folder.mkdir(exist_ok=True)
    for draw, height in ((lines_kept, 2.6), (cost, 3.6), (real_cubes, 3.0)):
        with plt.rc_context(STYLE):
            figure, ax = plt.subplots(figsize=(8, height))
            draw(ax)
            figure.savefig(folder / f"{draw.__name__}.svg", metadata={"Date": None})
            plt.close(figure)
