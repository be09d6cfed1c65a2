"""From what the user named, a recipe and passes besides, to a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmc.pipeline.pipeline import Pipeline
from llmc.pipeline.recipe_file import is_recipe_file, read_recipe
from llmc.plugins.registry import Registry, default

DEFAULT_RECIPE = "fuse"


def resolve(recipe: str | Path | Sequence[Any] | None = None, passes: Any = None, registry: Registry | None = None) -> Pipeline:
    """The passes of a recipe (its name, a YAML file or a list; "fuse" by default), then those asked for, in a valid order.

    A pass is given by name, `{"name": ..., option: ...}`, class or instance, one alone without a list. Only `passes` count as
    asked for by name; those that the recipe has already are asked for where they stand, with the options given, if any.
    Raises PluginError for unknown names, PipelineError for bad options and for passes that contradict each other.
    """
    registry = registry or default()
    recipe = DEFAULT_RECIPE if recipe is None else recipe
    if is_recipe_file(recipe):
        entries: Any = read_recipe(Path(str(recipe)), registry)
    else:
        entries = registry.recipe(recipe) if isinstance(recipe, str) else recipe
    return Pipeline.of(entries, passes, registry)


def recipe_name(recipe: str | Path | Sequence[Any] | None) -> str:
    """What a compiled model says that it was compiled with: a name, the name of a file, or "custom" for a list."""
    if recipe is None:
        return DEFAULT_RECIPE
    if is_recipe_file(recipe):
        return Path(str(recipe)).name
    return recipe if isinstance(recipe, str) else "custom"
