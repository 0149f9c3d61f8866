"""The plots of docs/performance.md, as SVG files on light ground, which shows in the dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.targets import verdicts

#: Distinct for the colour-blind, too (Okabe and Ito); ours is the first.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")
_MARKERS = ("o", "s", "^", "D", "v")
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
                figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
                pyplot.close(figure)


def _targets(pyplot: Any, results: dict[str, Any]) -> Any:
    """What was reached of each target: 1 is the target."""
    all_of_them = list(verdicts(results))
    if not all_of_them:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.27 * len(all_of_them)))
    reached = [verdict.ratio / verdict.target.least for verdict in all_of_them]
    colours = [_COLOURS[0] if verdict.holds else _COLOURS[1] for verdict in all_of_them]
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
    for at, (server, of_server) in enumerate(curve["servers"].items()):
        _line(left, at, curve["x"], of_server["cpu"], server)
        per_mib = [cpu and cpu / (x / _MIB) for x, cpu in zip(curve["x"], of_server["cpu"], strict=True)]
        _line(right, at, curve["x"], per_mib, server)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("bytes of pixel data")
        axes.legend(frameon=False)
    left.set_title("CPU ms for an object")
    right.set_title("CPU ms for a MiB")
    return figure


def _associations(pyplot: Any, curve: dict[str, Any]) -> Any:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for at, (server, of_server) in enumerate(curve["servers"].items()):
        _line(left, at, curve["x"], of_server["cpu"], server)
        _line(right, at, curve["x"], of_server["rate"], server)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("associations at once")
        axes.set_ylim(bottom=0)
    left.legend(frameon=False)
    left.set_title("CPU ms for a CT slice")
    right.set_title("CT slices per second")
    return figure


def _index(pyplot: Any, curve: dict[str, Any]) -> Any:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3))
    for server, of_server in curve["servers"].items():
        _line(left, 0, curve["x"], of_server["cpu"], server)
        _line(right, 0, curve["x"], of_server["find"], server)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("instances in the index")
        axes.set_ylim(bottom=0)
    left.set_title("CPU ms for an object of 9 KB")
    right.set_title("ms to find one study by its UID")
    return figure


def _line(axes: Any, at: int, x: Sequence[float], y: Sequence[float | None], label: str) -> None:
    there = [(one, other) for one, other in zip(x, y, strict=True) if other is not None]
    axes.plot(*zip(*there, strict=True), marker=_MARKERS[at], color=_COLOURS[at], label=label)


_CURVES = {"size": _size, "associations": _associations, "index": _index}
