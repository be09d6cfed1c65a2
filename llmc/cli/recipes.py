"""llmc recipes: which recipes there are, and what one does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmc.cli.common import JsonOption, console, print_json
from llmc.errors import LLMCError

if TYPE_CHECKING:
    from llmc.pipeline.pipeline import Pipeline
    from llmc.plugins.registry import Entry


def recipes(
    recipe: Annotated[str | None, typer.Argument(metavar="NAME|FILE", help="One to show pass by pass.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the recipes, or the passes of one with their options, in the order in which they run."""
    from llmc.pipeline.recipe import resolve
    from llmc.pipeline.recipe_file import recipe_description
    from llmc.plugins.registry import default

    entries = {entry.name: entry for entry in default().entries("recipes")}
    if recipe is None:
        data = [_listed(entry) for entry in entries.values()]
        print_json({"recipes": data}) if as_json else _print_list(data)
        return
    steps = _passes(resolve(recipe))
    known = recipe in entries
    described = _describe(entries[recipe]) if known else {"name": recipe, "summary": recipe_description(Path(recipe))}
    print_json({**described, "passes": steps}) if as_json else _print_one(described, steps)


def _describe(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "distribution": entry.distribution, "version": entry.version, "summary": entry.summary}


def _listed(entry: Entry) -> dict[str, Any]:
    """With its passes; one that names what is not there tells it in place of its summary, and hides no other."""
    from llmc.pipeline.recipe import resolve

    try:
        return {**_describe(entry), "passes": _passes(resolve(entry.name))}
    except LLMCError as error:
        return {**_describe(entry), "summary": f"({error})", "passes": []}


def _passes(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Each pass with all of its options, those that are the default too."""
    steps = [(step.key, step.item, step.item.config) for step in pipeline]
    return [
        {
            "pass": key,
            "summary": " ".join((type(item).__doc__ or "").strip().split("\n\n")[0].split()),
            "options": {} if config is None else config.model_dump(mode="json"),
            "set": [] if config is None else sorted(config.model_fields_set),
        }
        for key, item, config in steps
    ]


def _print_list(data: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table("recipe", "of", "version", "what it is for", "passes", box=box.SIMPLE, pad_edge=False)
    for row in data:
        names = ", ".join(_called(step) for step in row["passes"])
        table.add_row(row["name"], row["distribution"], row["version"], row["summary"], names)
    console().print(table)


def _print_one(described: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table("pass", "what it does", "options (* set by the recipe)", box=box.SIMPLE, pad_edge=False)
    for step in steps:
        options = (f"{'*' if name in step['set'] else ''}{name}={value}" for name, value in step["options"].items())
        table.add_row(step["pass"], step["summary"], "\n".join(options))
    of = " of {distribution} {version}".format(**described) if "distribution" in described else ""
    console().print(": ".join(filter(None, (f"{described['name']}{of}", described["summary"]))))
    console().print(table)


def _called(step: dict[str, Any]) -> str:
    """A pass as a user would write it."""
    options = ", ".join(f"{name}={step['options'][name]}" for name in step["set"])
    return f"{step['pass']}({options})" if options else step["pass"]
