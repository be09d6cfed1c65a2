"""llmc bench: how fast a model runs, and how fast it could."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmc.cli.common import (
    BackendOption,
    JsonOption,
    ModelArgument,
    PassOption,
    RecipeOption,
    TargetOption,
    ThreadsOption,
    console,
    open_model,
    print_json,
)
from llmc.cli.progress import Tell, progress
from llmc.errors import InputError, ToolchainError, UnsupportedError

if TYPE_CHECKING:
    from llmc.evaluate.limits import Limits, Work
    from llmc.evaluate.speed import Measured, Speed
    from llmc.runtime.model import CompiledModel

PROMPT, NEW = 256, 64


def bench(
    model: ModelArgument,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the prompt.", show_default=f"{PROMPT}, or half of the context")
    ] = None,
    new_tokens: Annotated[
        int | None, typer.Option(min=2, help="Tokens to write.", show_default=f"{NEW}, or a quarter of the context")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of which the median counts.")] = 5,
    measure: Annotated[bool, typer.Option("--measure", help="Measure the machine's limits again.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Tell where the time of each step goes instead.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the profile, a roofline and bars: .png, .svg or .pdf.")
    ] = None,
    recipe: RecipeOption = None,
    passes: PassOption = None,
    backend: BackendOption = None,
    target: TargetOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure prefill and decode, beside what the machine's limits allow.

    With --profile: the time of each op and each layer, its bytes and FLOPs, and its share of those limits. The prompt is read,
    and then tokens after it, each at the same context.
    """
    from llmc.evaluate.speed import speed

    if plot is not None:
        from llmc.evaluate.roofline import check_plot

        if not profile:
            raise InputError("--plot draws a profile; add --profile")
        check_plot(plot)
    began = time.perf_counter()
    opened = open_model(model, recipe=recipe, passes=passes, backend=backend, target=target, threads=threads)
    loaded = time.perf_counter() - began
    context = opened.info.max_context
    prompt_tokens = min(PROMPT, max(context // 2, 1)) if prompt_tokens is None else prompt_tokens
    new_tokens = min(NEW, max(context // 4, 2)) if new_tokens is None else new_tokens
    if profile:
        _profile(model, opened, prompt_tokens, new_tokens, runs, measure, as_json, plot)
        return
    with progress(f"measuring {model}") as show:
        found = speed(opened, prompt_tokens, new_tokens, runs, lambda done, total: show("run", done, total))
        memory = _peak_memory()  # before the program is read for its costs
        limits, unknown = _measured_limits(opened, measure, show)
    data = _data(opened, found, limits)
    data = {"model": model, "load_seconds": loaded, "peak_memory_mb": memory / 1e6, **data, "limits_unknown": unknown}
    print_json(data) if as_json else _print(data)


def _profile(
    name: str,
    model: CompiledModel,
    prompt_tokens: int,
    new_tokens: int,
    runs: int,
    measure: bool,
    as_json: bool,
    picture: Path | None,
) -> None:
    from llmc.cli.profile import print_profile, profile_data
    from llmc.evaluate.profile import profile

    with progress(f"compiling {name} with time stamps") as show:
        phases = profile(model, prompt_tokens, new_tokens, runs, lambda done, total: show("run", done, total))
        limits, unknown = _measured_limits(model, measure, show)
    known = None if limits is None else _limits(limits)
    header = {"model": name, **_header(model)}
    if picture is not None:
        from llmc.evaluate.roofline import plot

        plot(phases, limits, _title(header), picture)
    if as_json:
        print_json({**header, **profile_data(phases, limits), "limits": known, "limits_unknown": unknown})
        return
    out = console()
    out.print(_title(header))
    print_profile(phases, limits)
    out.print(_told(known, unknown))


def _measured_limits(model: CompiledModel, again: bool, show: Tell) -> tuple[Limits | None, str]:
    """The machine's limits, or why they are not known."""
    from llmc.evaluate.limits import HOURS_KEPT, limits_of
    from llmc.plugins.registry import default

    show(f"the machine's limits, kept for {HOURS_KEPT} hours")
    name = model.info.backend
    try:
        limits = limits_of(default().backend(name), model.executable, model.info.threads, again)
    except (ToolchainError, UnsupportedError) as error:  # the model runs without a compiler
        return None, str(error)
    return limits, "" if limits else f"backend {name} does not measure them"


def _header(model: CompiledModel) -> dict[str, Any]:
    return {"backend": model.info.backend, "target": model.executable.target, "recipe": model.info.recipe}


def _title(data: dict[str, Any]) -> str:
    target = f", {data['target']}" if data["target"] else ""
    return f"{data['model']}, recipe {data['recipe']}, backend {data['backend']}{target}"


def _peak_memory() -> int:
    """Bytes of this process at its largest, mapped weights that were read included."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _data(model: CompiledModel, found: Speed, limits: Limits | None) -> dict[str, Any]:
    from llmc.evaluate.limits import decode_work, prefill_work

    block_bytes = model.executable.block_bytes
    prefill = prefill_work(model.program, block_bytes, found.prompt_tokens)
    decode = decode_work(model.program, block_bytes, found.context)
    return {
        **_header(model),
        "prompt_tokens": found.prompt_tokens,
        "new_tokens": found.new_tokens,
        "runs": found.runs,
        "prefill": _phase(found.prefill, found.prompt_tokens, prefill, limits),
        "decode": _phase(found.decode, 1, decode, limits),
        "first_token_seconds": found.first_token.median,
        "weights_mb": model.program.weight_bytes() / 1e6,
        "limits": None if limits is None else _limits(limits),
    }


def _phase(found: Measured, tokens: int, work: Work, limits: Limits | None) -> dict[str, Any]:
    """Rates of a phase of so many tokens; `share` is of the bound that the limits set."""
    seconds = tokens / found.median
    predicted = None if limits is None else tokens / work.seconds(limits)
    return {
        "tokens_per_second": found.median,
        "spread": found.spread,
        "predicted": predicted,
        "share": None if predicted is None else found.median / predicted,
        "gb_per_second": work.bytes / seconds / 1e9,
        "gop_per_second": sum(work.operations.values()) / seconds / 1e9,
        "share_of_read": None if limits is None else work.bytes / seconds / limits.rates["read"].best,
    }


def _limits(limits: Limits) -> dict[str, Any]:
    rates = {name: {"median": rate.median / 1e9, "best": rate.best / 1e9} for name, rate in limits.rates.items()}
    return {"age_hours": limits.age, "threads": limits.threads, "target": limits.target, "giga_per_second": rates}


def _print(data: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    out = console()
    out.print(_title(data))
    out.print(f"medians of {data['runs']} runs, {data['prompt_tokens']} tokens read and {data['new_tokens']} written in each")
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("")
    for heading in ("tokens/s", "spread", "predicted at most", "share of it", "GB/s read", "share of reading", "GOP/s"):
        table.add_column(heading, justify="right")
    for name in ("prefill", "decode"):
        row = data[name]
        table.add_row(
            name, f"{row['tokens_per_second']:.1f}", f"{row['spread']:.0%}", _number(row["predicted"], ".1f"),
            _number(row["share"], ".0%"), f"{row['gb_per_second']:.2f}", _number(row["share_of_read"], ".0%"),
            f"{row['gop_per_second']:.1f}",
        )  # fmt: skip
    out.print(table)
    out.print(f"first token after {data['first_token_seconds'] * 1e3:.1f} ms, loaded in {data['load_seconds']:.2f} s")
    out.print(f"weights {data['weights_mb']:.2f} MB, peak memory {data['peak_memory_mb']:.0f} MB")
    out.print(_told(data["limits"], data["limits_unknown"]))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _told(limits: dict[str, Any] | None, unknown: str) -> str:
    if limits is None:
        return f"the machine's limits are not known: {unknown}"
    rates = limits["giga_per_second"]
    products = ", ".join(f"{name} {rate['best']:.0f} GOP/s" for name, rate in rates.items() if name != "read")
    return (
        f"limits of {limits['threads']} threads, measured {limits['age_hours']:.1f} hours ago (--measure does it again): "
        f"read {rates['read']['best']:.1f} GB/s, {products}; weights that fit a cache are read faster"
    )
