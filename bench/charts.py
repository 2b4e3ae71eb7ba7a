"""The pictures: memory against connections, CPU per delivered message, latencies of a fan-out; readable on a phone."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.results import FASTCABLE, FLOOR, Results, case_name, case_words, number, quantile
from bench.targets import MB

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = (FASTCABLE, FLOOR, "bun", "gorilla", "action-cable", "websockets", "anycable", "picows", "centrifugo",
         "starlette", "uvloop")
"""Who is drawn, the most telling first, as far as there is room."""
LINES, BARS = 8, 12
# Okabe and Ito's colours, told apart by the colour-blind too; fastcable has the warmest for itself.
OWN, FLOOR_COLOUR = "#d55e00", "#888888"
COLOURS = ("#0072b2", "#009e73", "#000000", "#cc79a7", "#56b4e9", "#e69f00", "#7f5f3f")
STYLE: dict[Any, Any] = {
    "font.size": 17, "axes.labelsize": 17, "axes.spines.top": False, "axes.spines.right": False,
    "figure.titlesize": 22, "figure.titleweight": "bold", "figure.figsize": (8, 6.8),
    "figure.dpi": 150, "savefig.facecolor": "white", "axes.grid": True, "grid.color": "#e4e4e4", "axes.axisbelow": True,
    "lines.solid_capstyle": "round",
}
FANOUT = case_name(subscribers=5000, size=100)


def draw(results: Results, folder: Path) -> list[tuple[str, str]]:
    """Draw what there are figures for; returns the files and what they show."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    drawn = []
    for file, text, plot in (
        ("memory.png", "Memory against connections", _memory),
        ("cpu.png", "CPU per delivered message", _cpu),
        ("latency.png", "Latencies of a fan-out", _latency),
    ):
        with pyplot.rc_context(STYLE):
            figure, axes = pyplot.subplots(layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12))
            if plot(axes, results):
                figure.savefig(folder / file)
                drawn.append((file, text))
            pyplot.close(figure)
    return drawn


def _memory(axes: Axes, results: Results) -> bool:
    cases = sorted(results.cases("idle"), key=lambda case: int(case_words(case)["connections"]))
    ends: list[tuple[float, str, str]] = []
    for key, name, colour in _shown(results, "idle", LINES):
        base = results.median("idle", cases[0], key, "rss")
        if base is None:
            continue
        points = [(0, base / MB)]
        for case in cases[1:]:
            count = int(case_words(case)["connections"])
            if (each := results.median("idle", case, key, "rss")) is not None:
                points.append((count, (base + each * count) / MB))
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=6, clip_on=False, **_line(key))
        count, last = points[-1]
        short = "" if count == int(case_words(cases[-1])["connections"]) else f" at {count:,}"
        ends.append((last, f"{name}  {last:.0f}{short}", colour))
    if not ends:
        return False
    _title(axes, "Memory of the server, MB (RSS)")
    axes.set_xlabel("subscribed connections")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlim(0, max(int(case_words(case)["connections"]) for case in cases))
    axes.set_ylim(0, max(end for end, _, _ in ends) * 1.05)
    _label_ends(axes, ends)
    return True


def _cpu(axes: Axes, results: Results) -> bool:
    # What the floor needed beside each of the servers, so that the bars are to each other as the pairs of runs were.
    floors = [value for s in results.series if (s.case, s.figure) == (FANOUT, "cpu") for value in s.floor]
    if not floors:
        return False
    floor = statistics.median(floors) * 1e6
    bars = []
    for key, name, _ in _shown(results, "fanout", BARS):
        if said := results.to_floor("fanout", FANOUT, key, "cpu"):
            bars.append((1.0 if key == FLOOR else said.median, name, key))
    if not bars:
        return False
    bars.sort(reverse=True)
    longest = bars[0][0] * floor
    for row, (ratio, _, key) in enumerate(bars):
        colour = {FASTCABLE: OWN, FLOOR: "#b9b9b9"}.get(key, "#5b87a6")
        axes.barh(row, ratio * floor, color=colour, height=0.72)
        text = f" {number(ratio * floor)}" + ("" if key == FLOOR else f"  ({number(ratio)} ×)")
        weight, ink = ("bold", OWN) if key == FASTCABLE else ("normal", "black")
        axes.text(ratio * floor, row, text, va="center", weight=weight, color=ink)
    axes.set_yticks(range(len(bars)), [name for _, name, _ in bars])
    for tick, (_, _, key) in zip(axes.get_yticklabels(), bars, strict=True):
        if key == FASTCABLE:
            tick.set(weight="bold", color=OWN)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    label = "5,000 subscribers, 100 B; in brackets: × the floor"
    if longest > 5 * bars[len(bars) // 2][0] * floor:
        axes.set_xscale("log")
        axes.set_xlim(1, longest * 5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        label += "\nlogarithmic: ten times as much is one step to the right"
    else:
        axes.set_xlim(0, longest * 1.4)
    axes.figure.supxlabel(label, fontsize=16)
    _title(axes, "CPU per delivered message, µs")
    return True


def _latency(axes: Axes, results: Results) -> bool:
    lines = []
    for case, histograms in results.histograms.items():
        for key, name, colour in _shown(results, "fanout", LINES):
            if buckets := histograms.get(key):
                lines.append((quantile(buckets, 0.99) * 1e3, name, key, colour, buckets))
        subscribers = int(case_words(case)["subscribers"])
    if not lines:
        return False
    lines.sort(key=lambda line: line[0])
    for p99, name, key, colour, buckets in lines:
        total = sum(count for _, count in buckets)
        shares = [sum_ / total * 100 for sum_ in itertools.accumulate(count for _, count in buckets)]
        axes.plot([upper * 1e3 for upper, _ in buckets], shares, color=colour, label=f"{name}  {p99:.0f}", **_line(key))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(0, 101)
    axes.set_xlabel(
        "ms since the post, logarithmic; each server at its own\ntime of the run: the tables compare side by side")
    _title(axes, f"% of {subscribers:,} subscribers reached within … ms")
    axes.figure.legend(title="99 % within, ms:", loc="outside lower left", ncols=2, frameon=False, alignment="left")
    return True


def _shown(results: Results, workload: str, most: int) -> Iterator[tuple[str, str, str]]:
    """(key, name, colour) of the servers to draw."""
    measured = {peer.key: peer for peer in results.measured(workload)}
    colours = iter(itertools.cycle(COLOURS))
    for key in [key for key in SHOWN if key in measured][:most]:
        colour = {FASTCABLE: OWN, FLOOR: FLOOR_COLOUR}.get(key) or next(colours)
        yield key, "floor (C)" if key == FLOOR else _short(measured[key].name), colour


def _short(name: str) -> str:
    return name.removeprefix("Python, ").removeprefix("Go, ").partition(" on ")[0]


def _title(axes: Axes, text: str) -> None:
    axes.figure.suptitle(text, x=0.02, ha="left")


def _line(key: str) -> dict[str, Any]:
    if key == FASTCABLE:
        return {"linewidth": 5, "zorder": 5}
    return {"linewidth": 2.5, "linestyle": "--" if key == FLOOR else "-"}


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each line's name behind its end, pushed apart where they would overlap."""
    bottom, top = axes.get_ylim()
    right = axes.get_xlim()[1]
    gap = (top - bottom) * 0.062
    wanted = sorted(ends)
    places: list[float] = []
    for value, _, _ in wanted:
        places.append(max(value, places[-1] + gap if places else bottom + gap / 3))
    if places[-1] > top:
        places = [min(place, top - gap * (len(places) - 1 - index)) for index, place in enumerate(places)]
    for (value, text, colour), place in zip(wanted, places, strict=True):
        weight = "bold" if colour == OWN else "normal"
        axes.annotate(
            text, (right, value), xytext=(1.04, (place - bottom) / (top - bottom)), textcoords="axes fraction",
            color=colour, weight=weight, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkB": 0, "shrinkA": 2},
        )
