"""Recipes in YAML files: a list of passes with their options, on top of another recipe if wanted."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from llmc.errors import InputError, LLMCError
from llmc.plugins.registry import Registry

SUFFIXES = (".yaml", ".yml")
MOST_BYTES = 1 << 16


class RecipeFile(BaseModel):
    """What a file may say. extends: a recipe by name, whose passes come first. passes: names, or names with options."""

    model_config = ConfigDict(extra="forbid", strict=True)

    description: str = ""
    extends: str | None = None
    passes: list[str | dict[str, Any]] = []


def is_recipe_file(recipe: Any) -> bool:
    """Whether this names a file rather than a recipe: a path, or a text that ends like one."""
    return isinstance(recipe, Path) or (isinstance(recipe, str) and recipe.lower().endswith(SUFFIXES))


def read_recipe(path: Path, registry: Registry) -> list[Any]:
    """The passes of a file, as `llmc.compile(recipe=[...])` takes them; those with bad names or options are refused.

    Raises InputError naming the file and what is wrong in it.
    """
    found = _checked(path, _parsed(path))
    passes = [_spec(path, item) for item in found.passes]
    try:
        entries = registry.recipe(found.extends) if found.extends is not None else []
        for spec in passes:
            options = {key: value for key, value in spec.items() if key != "name"}
            registry.pass_class(spec["name"])(**options)
    except LLMCError as error:
        raise InputError(f"{path}: {error}") from error
    if not entries and not passes:
        raise InputError(
            f"{path}: the recipe has no passes; give some under 'passes', or a recipe to start from under 'extends'"
        )
    return [*entries, *passes]


def recipe_description(path: Path) -> str:
    """What a file says that it is for. Raises InputError as `read_recipe` does."""
    return _checked(path, _parsed(path)).description


def _parsed(path: Path) -> Any:
    try:
        if not path.is_file():
            raise InputError(f"{path}: there is no such recipe file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise InputError(f"{path}: a recipe is at most {MOST_BYTES} bytes long")
        return yaml.load(data, _Loader)
    except OSError as error:
        raise InputError(f"{path}: cannot read the recipe: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).split("\n")[0] or "nested too deeply"
        raise InputError(f"{path}{where}: not valid YAML: {reason}") from error


class _Loader(yaml.SafeLoader):
    """Plain data and nothing else; no aliases, by which a few lines can stand for millions, and no key given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key, yaml.ScalarNode) else True:
                problem = (
                    f"the key '{key.value}' is there twice" if isinstance(key, yaml.ScalarNode) else "a key must be a name"
                )
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _checked(path: Path, data: Any) -> RecipeFile:
    if not isinstance(data, dict):
        raise InputError(f"{path}: a recipe is a mapping with the keys {', '.join(RecipeFile.model_fields)}")
    try:
        return RecipeFile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("str", "dict[")))
        if first["type"] == "extra_forbidden":
            raise InputError(f"{path}: there is no key '{where}'; {nearest(where, list(RecipeFile.model_fields))}") from error
        raise InputError(f"{path}: '{where}': {first['msg'][:1].lower()}{first['msg'][1:]}") from error


def _spec(path: Path, item: Any) -> dict[str, Any]:
    """`quantize`, `{name: quantize, bits: 4}` or `{quantize: {bits: 4}}` as the second of these."""
    if isinstance(item, str):
        return {"name": item}
    if isinstance(item.get("name"), str):
        return item
    [(name, options)] = item.items() if len(item) == 1 else [(None, None)]
    if not isinstance(name, str) or not (options is None or isinstance(options, dict)) or "name" in (options or {}):
        raise InputError(f"{path}: a pass is written as 'quantize' or 'quantize: {{bits: 4}}', not as {item!r}")
    return {"name": name, **(options or {})}


def nearest(name: str, known: list[str]) -> str:
    """`did you mean 'bits'? known: bits, skip`."""
    near = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean '{near[0]}'? " if near else "") + f"known: {', '.join(known)}"
