"""The options that commands share."""

import inspect

import pytest
import typer
from typer.testing import CliRunner

from llmc.cli.common import JsonOption
from llmc.cli.model_options import NamedModel, opens_model

GIVEN = ["build/m", "text", "--recipe", "int8", "--pass", "a", "--pass", "b", "--backend", "cpu", "--target", "avx2", "--json"]


@pytest.mark.parametrize("threads", [True, False])
def test_command_is_given_a_model_with_its_options_between_its_own_and_json(threads):
    seen = []

    @opens_model(threads=threads)
    def command(model: NamedModel, text: str, as_json: JsonOption = False) -> None:
        """What it does."""
        seen.append((model, text, as_json))

    names = ["recipe", "passes", "backend", "target", *(["threads"] if threads else [])]
    assert list(inspect.signature(command).parameters) == ["model", "text", *names, "as_json"]
    app = typer.Typer()
    app.command()(command)
    more = ["--threads", "2"] if threads else []
    assert CliRunner().invoke(app, [*GIVEN, *more]).exit_code == 0
    [(model, text, as_json)] = seen
    expected = {"recipe": "int8", "passes": ["a", "b"], "backend": "cpu", "target": "avx2"}
    if threads:
        expected["threads"] = 2
    assert (str(model), model.options, text, as_json) == ("build/m", expected, "text", True)
    assert CliRunner().invoke(app, [*GIVEN, "--threads", "0"]).exit_code == 2
