"""From what the user named, a recipe and passes besides, to a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmc.pipeline.pipeline import Pipeline
from llmc.plugins.registry import Registry, default

DEFAULT_RECIPE = "fuse"


def resolve(recipe: str | Sequence[Any] | None = None, passes: Any = None, registry: Registry | None = None) -> Pipeline:
    """The passes of a recipe (its name, or a list; "fuse" by default), then those the user asked for, in a valid order.

    A pass is given by name, `{"name": ..., option: ...}`, class or instance, one alone without a list. Only `passes` count as
    asked for by name; those that the recipe has already are asked for where they stand, with the options given, if any.
    Raises PluginError for unknown names, PipelineError for bad options and for passes that contradict each other.
    """
    registry = registry or default()
    recipe = DEFAULT_RECIPE if recipe is None else recipe
    entries = registry.recipe(recipe) if isinstance(recipe, str) else recipe
    return Pipeline.of(entries, passes, registry)
