"""The samples of a sitting as pictures: every side's rate, and its share of what the machine allows."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers import SIDES
from benchmarks.results import Raw, limits_of, rate, share

OURS, OTHERS = "#1f5fa8", "#b9bec6"


def plot(data: Raw, target: Path) -> None:
    """A row of bars for each shape and workload, as a file of the format that the name ends with. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    limits = limits_of(data)
    groups: dict[tuple[str, str], list[Raw]] = {}
    for run in data["runs"]:
        groups.setdefault((run["shape"], run["workload"]), []).append(run)
    height = sum(0.28 * len(runs) + 0.9 for runs in groups.values())
    ratios = [len(runs) + 2 for runs in groups.values()]
    figure, rows = pyplot.subplots(
        len(groups), 2, figsize=(11, height), squeeze=False, gridspec_kw={"height_ratios": ratios}, layout="constrained"
    )
    for ((shape, work), runs), axes in zip(groups.items(), rows, strict=True):
        labels = [SIDES[run["side"]].label for run in runs]
        colours = [OURS if run["side"].startswith("llmc-") else OTHERS for run in runs]
        for axis, values, form in zip(
            axes, ([rate(run) for run in runs], [100 * share(run, limits) for run in runs]), ("%.0f", "%.0f%%"), strict=True
        ):
            axis.bar_label(axis.barh(labels, values, color=colours), fmt=form, padding=3, fontsize=8)
            axis.invert_yaxis()
            axis.margins(x=0.15)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
        axes[0].set_title(f"{shape}, {work}: tokens/s", fontsize=9, loc="left")
        axes[1].set_title("share of what the machine allows", fontsize=9, loc="left")
        axes[1].set_yticklabels([])
        axes[1].axvline(100, color="#555", linewidth=0.8, linestyle=":")
    figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
    pyplot.close(figure)
