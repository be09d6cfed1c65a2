"""Speed beside the peers.

    python -m benchmarks install [--side NAME ...]
    python -m benchmarks run [--shape NAME ...] [--workload NAME ...] [--side NAME ...] [--pairs 5]
    python -m benchmarks judged
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
from benchmarks import table as tables
from benchmarks.client import PeerError
from benchmarks.home import ROOT, VARIABLE, default_home
from benchmarks.models import model_of
from benchmarks.peers import SIDES, folder_of, module_of
from benchmarks.session import Session, Sitting
from benchmarks.shapes import SHAPES
from benchmarks.workloads import workload

RESULTS = ROOT / "benchmarks" / "results"
JUDGED_SHAPES = ["smollm2-135m", "llama-3.2-1b", "minilm-l6"]
JUDGED = ["decode-64", "decode-64x16", "decode-4096", "prefill-512", "encode-64"]
DEFAULT = ["decode-64", "prefill-512"]
app = typer.Typer(add_completion=False, no_args_is_help=True, help="llmc beside its peers, in one sitting.")

HomeOption = Annotated[
    Path, typer.Option(envvar=VARIABLE, help="Where peers are installed and models are kept.", default_factory=default_home)
]


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
    pairs: Annotated[int, typer.Option(min=1, help="Rounds; each side runs once in each.")] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    starts: Annotated[bool, typer.Option(help="Measure loading, the first token and memory too.")] = False,
    name: Annotated[str, typer.Option(help="Of the files in the folder of results.")] = "latest",
    out: Annotated[Path, typer.Option(help="The folder of results.")] = RESULTS,
) -> None:
    """Run every side on the same shapes in alternation; write raw samples and tables."""
    shapes, sides = known(shape, SHAPES, "shape"), known(side or list(SIDES), SIDES, "side")
    try:
        list(map(workload, work))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    sitting = Sitting(machine(threads))
    session = Session(home, sides, work, pairs, threads, starts, lambda text: typer.echo(text, err=True), sitting)
    for one in shapes:
        session.shape(one)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(sitting.data(), indent=1) + "\n")
    (out / f"{name}.md").write_text(tables.page(sitting.data()))
    if sitting.runs and importlib.util.find_spec("matplotlib"):
        pictures.plot(sitting.data(), out / f"{name}.svg")
    typer.echo(tables.page(sitting.data()))


@app.command()
def judged(
    home: HomeOption,
    pairs: Annotated[int, typer.Option(min=1, help="Rounds; each side runs once in each.")] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    out: Annotated[Path, typer.Option(help="The folder of results.")] = RESULTS,
) -> None:
    """Run what llmc is held to, beside the peers that it is held against."""
    sides = [key for key in SIDES if not key.startswith(("torch-compile", "torchao"))]
    run(home, JUDGED_SHAPES, JUDGED, sides, pairs, threads, True, "judged", out)


@app.command()
def plot(samples: Annotated[Path, typer.Argument(help="The raw samples of a sitting.")]) -> None:
    """Draw the samples into a file beside them; needs matplotlib."""
    pictures.plot(json.loads(samples.read_text()), samples.with_suffix(".svg"))


@app.command()
def table(samples: Annotated[Path, typer.Argument(help="The raw samples of a sitting.")]) -> None:
    """Print the tables of raw samples."""
    typer.echo(tables.page(json.loads(samples.read_text())))


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
