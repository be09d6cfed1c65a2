"""llmc tune: find how code for this machine is made best."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from llmc.cli.common import DEFAULT_BACKEND, JsonOption, TargetOption, console, print_json
from llmc.cli.progress import progress


def tune(
    backend: Annotated[str, typer.Option("--backend", help="A backend; 'llmc backends' lists them.")] = DEFAULT_BACKEND,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try how products are best cut for this machine's caches: what is compiled afterwards is faster, not different."""
    from rich import box
    from rich.table import Table

    from llmc.plugins.registry import default

    made = default().backend(backend)
    with progress(f"tuning {backend}"):
        trials = (made.for_target(target) if target else made).tune()
    if as_json:
        print_json({"backend": backend, "trials": [asdict(trial) for trial in trials]})
        return
    if not trials:
        print(f"backend '{backend}' has nothing to tune")
        return
    work = list(trials[0].speedups)
    table = Table("", "setting", *work, box=box.SIMPLE, pad_edge=False)
    for trial in trials:
        table.add_row("*" if trial.chosen else "", trial.setting, *(f"{trial.speedups[name]:.3f}" for name in work))
    console().print(table)
    print("Times as fast as the first; * is used from now on.")
