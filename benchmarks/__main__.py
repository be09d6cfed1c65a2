"""Speed beside the peers.

    python -m benchmarks install [--side NAME ...]
    python -m benchmarks run [--shape NAME ...] [--workload NAME ...] [--side NAME ...] [--pairs 5]
    python -m benchmarks judged
    python -m benchmarks summary benchmarks/results/NAME.json ...
    python -m benchmarks table benchmarks/results/NAME.json
    python -m benchmarks plot benchmarks/results/NAME.json
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import plot as pictures
from benchmarks import summary
from benchmarks import table as tables
from benchmarks.client import PeerError
from benchmarks.home import ROOT, VARIABLE, default_home
from benchmarks.models import model_of
from benchmarks.peers import SIDES, folder_of, module_of
from benchmarks.peers.base import Side
from benchmarks.session import Session, Sitting
from benchmarks.shapes import SHAPES, Shape
from benchmarks.targets import TARGETS, targets_of
from benchmarks.workloads import workload

RESULTS = ROOT / "benchmarks" / "results"
JUDGED_SHAPES = list(dict.fromkeys(target.shape for target in TARGETS))
DEFAULT = ["decode-64", "prefill-512"]
app = typer.Typer(add_completion=False, no_args_is_help=True, help="llmc beside its peers, in one sitting.")

HomeOption = Annotated[
    Path, typer.Option(envvar=VARIABLE, help="Where peers are installed and models are kept.", default_factory=default_home)
]
PairsOption = Annotated[int, typer.Option(min=1, help="Rounds; each side runs once in each.")]
ThreadsOption = Annotated[int, typer.Option(min=1)]
OutOption = Annotated[Path, typer.Option(help="The folder of results.")]


def processor() -> str:
    """The model name of the processor, as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def machine(threads: int) -> dict[str, Any]:
    """What the samples were taken on."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "processor": processor(), "threads": threads, "date": time.strftime("%Y-%m-%d"),
        "commit": found.stdout.strip() or "unknown",
    }  # fmt: skip


def known(names: list[str], all_of: dict[str, Any], what: str) -> list[Any]:
    """The entries of these names. Raises typer.BadParameter for one that there is not."""
    for name in names:
        if name not in all_of:
            raise typer.BadParameter(f"there is no {what} '{name}'; there are: {', '.join(all_of)}")
    return [all_of[name] for name in names]


@app.command()
def install(
    home: HomeOption,
    side: Annotated[list[str], typer.Option(help=f"Repeatable; all by default: {', '.join(SIDES)}.")] = [],  # noqa: B006
) -> None:
    """Install the peers, or build them."""
    chosen = {one.peer: one for one in known(side or list(SIDES), SIDES, "side")}
    for one in chosen.values():
        module = module_of(one)
        if hasattr(module, "install"):
            module.install(folder_of(one, home))


@app.command()
def prepare(
    home: HomeOption,
    shape: Annotated[list[str], typer.Option(help=f"Repeatable: {', '.join(SHAPES)}.")] = ["smollm2-135m"],  # noqa: B006
    side: Annotated[list[str], typer.Option(help="Repeatable; all by default.")] = [],  # noqa: B006
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Write random checkpoints and what each side makes of them, so that `run` finds them."""
    for one in known(shape, SHAPES, "shape"):
        for each in known(side or list(SIDES), SIDES, "side"):
            if each.encoder if one.encoder else each.decoder:
                typer.echo(f"{one.name}: {each.label}", err=True)
                try:
                    model_of(each, one, home, threads)
                except PeerError as error:
                    typer.echo(f"{each.label}: {error}", err=True)


@app.command()
def run(
    home: HomeOption,
    shape: Annotated[list[str], typer.Option(help=f"Repeatable: {', '.join(SHAPES)}.")] = ["smollm2-135m"],  # noqa: B006
    work: Annotated[list[str], typer.Option("--workload", help="Repeatable; see benchmarks/workloads.py.")] = DEFAULT,
    side: Annotated[list[str], typer.Option(help="Repeatable; all by default.")] = [],  # noqa: B006
    pairs: PairsOption = 5,
    threads: ThreadsOption = 2,
    starts: Annotated[bool, typer.Option(help="Measure loading, the first token and memory too.")] = False,
    name: Annotated[str, typer.Option(help="Of the files in the folder of results.")] = "latest",
    out: OutOption = RESULTS,
) -> None:
    """Run every side on the same shapes in alternation; write raw samples and tables, anew after each workload."""
    shapes, sides = known(shape, SHAPES, "shape"), known(side or list(SIDES), SIDES, "side")
    try:
        list(map(workload, work))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    data = sat(home, shapes, sides, work, pairs, threads, starts, out / name)
    typer.echo(tables.page(data))


def sat(
    home: Path, shapes: list[Shape], sides: list[Side], work: list[str], pairs: int, threads: int, starts: bool, target: Path
) -> dict[str, Any]:
    """What a sitting found. target: the path of its files, less what they end with."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    sitting = Sitting(machine(threads))

    def keep() -> None:
        written(target.with_name(f"{target.name}.json"), json.dumps(sitting.data(), indent=1) + "\n")
        written(target.with_name(f"{target.name}.md"), tables.page(sitting.data()))

    session = Session(home, sides, work, pairs, threads, starts, lambda text: typer.echo(text, err=True), sitting, keep)
    for one in shapes:
        session.shape(one)
    keep()
    if sitting.runs and importlib.util.find_spec("matplotlib"):
        pictures.plot(sitting.data(), target.with_name(f"{target.name}.svg"))
    return sitting.data()


def written(path: Path, text: str) -> None:
    """Write a file as a whole: who is cut off leaves the one that was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)


@app.command()
def judged(
    home: HomeOption,
    shape: Annotated[list[str], typer.Option(help="Repeatable: shapes that something is held to.")] = JUDGED_SHAPES,
    pairs: PairsOption = 5,
    threads: ThreadsOption = 2,
    out: OutOption = RESULTS,
) -> None:
    """Run what llmc is held to, beside the peers that it is held against: a table and a picture of each shape, named after it,
    and `judged.md`, what is reached and what is not."""
    sides = [one for key, one in SIDES.items() if not key.startswith(("torch-compile", "torchao"))]
    sittings: list[dict[str, Any]] = []
    for one in known(shape, SHAPES, "shape"):
        work = list(dict.fromkeys(target.workload for target in targets_of(one.name)))
        if not work:
            raise typer.BadParameter(f"nothing is held to with the shape '{one.name}'; there are: {', '.join(JUDGED_SHAPES)}")
        sittings.append(sat(home, [one], sides, work, pairs, threads, True, out / one.name))
        written(out / "judged.md", summary.page(sittings))
    typer.echo(summary.page(sittings))


@app.command()
def plot(samples: Annotated[Path, typer.Argument(help="The raw samples of a sitting.")]) -> None:
    """Draw the samples into a file beside them; needs matplotlib."""
    pictures.plot(json.loads(samples.read_text()), samples.with_suffix(".svg"))


@app.command()
def table(samples: Annotated[Path, typer.Argument(help="The raw samples of a sitting.")]) -> None:
    """Print the tables of raw samples."""
    typer.echo(tables.page(json.loads(samples.read_text())))


@app.command("summary")
def summarize(samples: Annotated[list[Path], typer.Argument(help="The raw samples of sittings.")]) -> None:
    """Print what llmc is held to beside what raw samples say."""
    typer.echo(summary.page([json.loads(path.read_text()) for path in samples]))


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
