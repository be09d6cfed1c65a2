"""llmc verify: a compiled model's backend beside the reference, op by op."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llmc.cli.common import JsonOption, console, print_json
from llmc.cli.model_options import NamedModel, opens_model
from llmc.cli.progress import progress

DIVERGES = 1


@opens_model(threads=False)
def verify(
    model: NamedModel,
    text: Annotated[str | None, typer.Option(help="What to read.", show_default="random tokens")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every op with the reference; exit code 1 names the first that diverges, its origin and the pass that made it."""
    from llmc.errors import InputError
    from llmc.evaluate.verify import verify as compare

    opened = model.open()
    if text is not None and opened.tokenizer is None:
        raise InputError(f"{model}: this model has no tokenizer, so it reads no --text")
    with progress("lowering every op by itself"):
        found = compare(opened, None if text is None else opened.tokenizer.encode(text))  # type: ignore[union-attr]
    if as_json:
        first = None if found.first is None else _facts(found.first)
        print_json({
            "backend": found.backend, "tokens": found.tokens, "agrees": found.agrees, "first": first, "remark": found.remark,
            "outputs": found.outputs, "ops": [_facts(check) for check in found.ops],
        })  # fmt: skip
    else:
        _print(found)
    if not found.agrees:
        raise typer.Exit(DIVERGES)


def _facts(check: Any) -> dict[str, Any]:
    origin = check.origin
    where = {"module": origin.module, "source": origin.source, "passes": list(origin.passes)}
    return {"node": check.node, "op": check.op, **where, "error": check.error, "tolerance": check.tolerance}


def _print(found: Any) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("op", "count", "largest error", "allowed", "where"):
        table.add_column(heading, justify="left" if heading in ("op", "where") else "right")
    for op, check in found.worst().items():
        count = str(sum(other.op == op for other in found.ops))
        table.add_row(op, count, f"{check.error:.1e}", f"{check.tolerance:.0e}", str(check.origin))
    console().print(table)
    for name, error in found.outputs.items():
        print(f"output {name} of the whole model: error {error:.1e}, {found.tolerance:.0e} is allowed")
    if found.first:
        print(f"the first op that diverges: {found.first}")
    elif found.remark:
        print(found.remark)
    else:
        print(f"backend {found.backend} agrees with the reference on {found.tokens} tokens")
