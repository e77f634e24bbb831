"""Pictures of a report as SVG text, in colours that the colour-blind tell apart and in the ink of the page around them.

Reference: palette of Okabe and Ito, Color Universal Design, 2008.
"""

import io
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffrec_jax.config import ConfigError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
MARKERS = "osD^vPX"
INK = "#010203"
"""Stands for the colour of the text around a picture."""
WIDTH = 7.0
"""Inches."""


def _draw(name: str, height: float, draw: Callable[[Any], None]) -> str:
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("a report needs matplotlib: pip install 'diffrec-jax[plot]'") from error
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    look: dict[Any, Any] = dict.fromkeys(inked, INK) | {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 10,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    }  # fmt: skip
    file = io.StringIO()
    with rc_context(look):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]


def for_page(svg: str, description: str) -> str:
    """The picture within an HTML page: its ink is the page's, and its names are its own."""
    own = re.sub(r"\W", "", description)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{own}-", svg)
    start = f'<svg role="img" aria-label="{description}"'
    return svg.replace(INK, "currentColor").replace("<svg", start, 1)


def for_file(svg: str) -> str:
    """The picture as a file of its own: dark ink on white paper."""
    end = svg.index(">") + 1
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg[:end]}{paper}{svg[end:]}'.replace(INK, "#222222")


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def lines(
    name: str,
    series: Mapping[str, Mapping[str, Sequence[float]]],
    places: Sequence[str],
    xlabel: str | None,
    ylabel: str,
) -> str:
    """A line for each series through its means, with a gap where it lacks a place; bars: deviation over seeds.

    Args:
      name: of the picture.
      series: values over seeds, by label and place.
      places: along the axis in this order, evenly spaced.
      xlabel: what the places are values of.
      ylabel: what the values are.
    """

    def draw(axes: Any) -> None:
        for number, (label, own) in enumerate(series.items()):
            means, spreads = (
                [of(own[place]) if place in own else math.nan for place in places] for of in (statistics.mean, _spread)
            )
            axes.errorbar(
                range(len(places)), means, yerr=spreads, label=label, color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)], markersize=5, capsize=3, linewidth=1.5,
            )  # fmt: skip
        axes.set_xticks(range(len(places)), [place.replace(" ", "\n") for place in places])
        axes.set_xlim(-0.3, len(places) - 0.7)  # places that nothing stands at have room, too
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if len(series) > 1:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return _draw(name, 3.4, draw)


def dots(name: str, values: Mapping[str, Sequence[float]], xlabel: str) -> str:
    """A row for each label: the seeds as small dots, their mean and deviation beside."""

    def draw(axes: Any) -> None:
        for place, own in enumerate(values.values()):
            axes.errorbar(
                statistics.mean(own), place, xerr=_spread(own), color=COLOURS[0], marker="o", markersize=6, capsize=3
            )
            axes.plot(own, [place] * len(own), ".", color=COLOURS[1], markersize=3, zorder=3)
        axes.set_yticks(range(len(values)), [label.replace("$", r"\$") for label in values])
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.grid(axis="x", alpha=0.25)
        axes.set(xlabel=xlabel)

    return _draw(name, 0.9 + 0.28 * len(values), draw)


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Labels of the points (cost, gain) that none other beats in both, by rising cost."""
    front, best = [], float("-inf")
    for label, (_, gain) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if gain > best:
            front.append(label)
            best = gain
    return front


def label_offsets(
    labels: Sequence[str], places: Sequence[Sequence[float]], sizes: Sequence[float]
) -> list[tuple[float, float]]:
    """Where labels go so that they cover neither each other nor a point: their lower left corners, from the points.

    Args:
      labels: texts, the most important first.
      places: (x, y) of each point.
      sizes: of the fonts; all in points, 1/72 inch.
    """
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in places]
    found = []
    for label, (x, y), size in zip(labels, places, sizes, strict=True):
        width = 0.6 * size * len(label)
        ways = [(side, rise * size) for rise in (0.3, -1.1, 1.5, -2.3, 2.7, -3.5) for side in (5.0, -5.0 - width)]

        def box(way: tuple[float, float], at: tuple[float, float] = (x, y), width: float = width, size: float = size):
            left, low = at[0] + way[0], at[1] + way[1]
            return left, low, left + width, low + size

        best = min(ways, key=lambda way: sum(_overlap(box(way), other) for other in taken))
        taken.append(box(best))
        found.append(best)
    return found


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The area that two boxes (left, low, right, high) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def pareto(name: str, values: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str) -> str:
    """Gain against cost: means, with bars over all runs; the front of the means as a line, and its points named."""
    points = {label: (statistics.mean(costs), statistics.mean(gains)) for label, (costs, gains) in values.items()}
    front = pareto_front(points)

    def draw(axes: Any) -> None:
        for costs, gains in values.values():
            ends = {"color": COLOURS[6], "linewidth": 1.0, "alpha": 0.7}
            axes.hlines(statistics.mean(gains), min(costs), max(costs), **ends)
            axes.vlines(statistics.mean(costs), min(gains), max(gains), **ends)
        others = [points[label] for label in points if label not in front]
        if others:
            axes.plot(*zip(*others, strict=True), "o", color=COLOURS[6], markersize=5)
        axes.step(*zip(*(points[label] for label in front), strict=True), where="post", color=COLOURS[0], alpha=0.6)
        axes.plot(*zip(*(points[label] for label in front), strict=True), "o", color=COLOURS[1], markersize=6)
        axes.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
        axes.margins(x=0.12)
        axes.figure.draw_without_rendering()  # settles where points lie
        sizes = {label: 9.0 if label in front else 7.0 for label in [*front, *points]}
        places = axes.transData.transform([points[label] for label in sizes]) * 72 / axes.figure.dpi
        for label, offset in zip(sizes, label_offsets(list(sizes), places.tolist(), list(sizes.values()))):
            text, alpha = label.replace("$", r"\$"), 1.0 if label in front else 0.7
            is_far = abs(offset[1]) > 1.2 * sizes[label]
            leader = {"arrowstyle": "-", "linewidth": 0.5, "alpha": 0.5, "edgecolor": INK} if is_far else None
            axes.annotate(
                text, points[label], xytext=offset, textcoords="offset points", fontsize=sizes[label], alpha=alpha,
                arrowprops=leader,
            )  # fmt: skip

    return _draw(name, 4.6, draw)
