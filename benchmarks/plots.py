"""The plots of docs/performance.md, as SVG files on light ground, which shows in the dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.targets import verdicts

#: Distinct for the colour-blind, too (Okabe and Ito). A server looks the same in all plots.
_LOOKS = {
    "dicomtw": ("#0072b2", "o"),
    "dicomtw, one process": ("#56b4e9", "D"),
    "storescp": ("#d55e00", "s"),
    "storescp --fork": ("#d55e00", "s"),
    "bare C receiver": ("#009e73", "^"),
}
_HOLDS, _FALLS_SHORT = "#0072b2", "#d55e00"
_GROUND = "#fbfbf8"
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dicomtw",  # the same figures make the same file
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.facecolor": _GROUND,
    "figure.facecolor": _GROUND,
    "savefig.facecolor": _GROUND,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.markersize": 4,
}
_MIB = 1 << 20


def draw(results: dict[str, Any], directory: Path) -> None:
    """Write one file for the targets and one for each curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    directory.mkdir(exist_ok=True)
    with pyplot.rc_context(_SETTINGS):
        figures = {"performance-targets": _targets(pyplot, results)}
        for name, curve in results["curves"].items():
            figures[f"performance-{name}"] = _CURVES[name](pyplot, curve)
        for name, figure in figures.items():
            if figure is not None:
                figure.tight_layout()
                figure.savefig(directory / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
                pyplot.close(figure)


def _targets(pyplot: Any, results: dict[str, Any]) -> Any:
    """What was reached of each target: 1 is the target."""
    all_of_them = list(verdicts(results))
    if not all_of_them:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.27 * len(all_of_them)))
    reached = [verdict.ratio / verdict.target.least for verdict in all_of_them]
    colours = [_HOLDS if verdict.holds else _FALLS_SHORT for verdict in all_of_them]
    places = range(len(all_of_them), 0, -1)
    axes.barh(places, [each - 1 for each in reached], left=1, color=colours, height=0.65)
    axes.axvline(1, color="#444444", linewidth=1)
    axes.set_xscale("log")
    ticks = [each for each in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if min(reached) / 2 < each < max(reached) * 2]
    axes.set_xticks(ticks, [f"{each:g}" for each in ticks])
    axes.minorticks_off()
    axes.set_yticks(
        places,
        [f"{verdict.work.partition(':')[0]} / {verdict.target.peer}" for verdict in all_of_them],
        fontsize=7,
    )
    axes.set_xlabel("times the target")
    return figure


def _size(pyplot: Any, curve: dict[str, Any]) -> Any:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for server, of_server in curve["servers"].items():
        _line(left, curve["x"], of_server["cpu"], server)
        per_mib = [cpu and cpu / (x / _MIB) for x, cpu in zip(curve["x"], of_server["cpu"], strict=True)]
        _line(right, curve["x"], per_mib, server)
    for axes, title in ((left, "CPU ms for an object"), (right, "CPU ms for a MiB")):
        _labelled(axes, title, "bytes of pixel data", [(10**4, "10 KB"), *_SIZES])
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    right.legend(frameon=False)
    return figure


_SIZES = [(10**5, "100 KB"), (10**6, "1 MB"), (10**7, "10 MB"), (10**8, "100 MB"), (10**9, "1 GB")]


def _associations(pyplot: Any, curve: dict[str, Any]) -> Any:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for server, of_server in curve["servers"].items():
        _line(left, curve["x"], of_server["cpu"], server)
        _line(right, curve["x"], of_server["rate"], server)
    for axes, title in ((left, "CPU ms for a CT slice"), (right, "CT slices per second")):
        _labelled(axes, title, "associations at once", [(each, f"{each}") for each in (1, 10, 100, 1000)])
        axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    left.legend(frameon=False)
    return figure


def _index(pyplot: Any, curve: dict[str, Any]) -> Any:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3))
    for axes, title, key in (
        (left, "CPU ms for an object of 9 KB", "cpu"),
        (right, "ms to find one study by its UID", "find"),
    ):
        for server, of_server in curve["servers"].items():
            _line(axes, curve["x"], of_server[key], server)
        _labelled(
            axes, title, "instances in the index", [(10**each, f"{10**each:,}") for each in range(3, 7)]
        )
        axes.set_ylim(0, axes.get_ylim()[1] * 1.2)
    return figure


def _labelled(axes: Any, title: str, of_x: str, ticks: Sequence[tuple[int, str]]) -> None:
    """Titles, and an axis of powers of ten with those ticks that are in it."""
    axes.set_title(title)
    axes.set_xlabel(of_x)
    axes.set_xscale("log")
    axes.minorticks_off()
    low, high = axes.get_xlim()
    there = [(at, label) for at, label in ticks if low <= at <= high]
    axes.set_xticks([at for at, _ in there], [label for _, label in there])


def _line(axes: Any, x: Sequence[float], y: Sequence[float | None], server: str) -> None:
    there = [(one, other) for one, other in zip(x, y, strict=True) if other is not None]
    colour, marker = _LOOKS[server]
    axes.plot(*zip(*there, strict=True), marker=marker, color=colour, label=server)


_CURVES = {"size": _size, "associations": _associations, "index": _index}
