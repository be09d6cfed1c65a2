"""What a pass accepts, and what it leaves behind."""

from typing import Literal

import pytest
from pydantic import BaseModel

from llmc.errors import PipelineError
from llmc.pipeline.base import Pass
from llmc.pipeline.record import PassRecord


class Rounding(Pass):
    """A pass with options."""

    name = "rounding"

    class Config(Pass.Config):
        """bits: of each number. mode: which way."""

        bits: int = 8
        mode: Literal["Up", "Down"] = "Up"

    def run(self, program, ctx):
        return program


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bit": 4}, r"^pass 'rounding': there is no option 'bit', did you mean 'bits'\? \(options: bits, mode\)$"),
        ({"bits": "four"}, r"^pass 'rounding': option 'bits': input should be a valid integer.*\(options: bits, mode\)$"),
        ({"mode": "up"}, r"option 'mode': input should be 'Up' or 'Down'"),
    ],
)
def test_bad_option_is_refused_with_the_pass_and_its_options(options, message):
    with pytest.raises(PipelineError, match=message):
        Rounding(**options)


def test_pass_prints_the_options_that_are_not_the_default():
    assert str(Rounding()) == "rounding" and str(Rounding(bits=4)) == "rounding(bits=4)"


def test_config_that_would_ignore_unknown_options_is_refused():
    class Loose(BaseModel):
        bits: int = 8

    with pytest.raises(TypeError, match="must forbid unknown options"):
        type("Careless", (Pass,), {"name": "careless", "Config": Loose})


def test_record_survives_json():
    record = PassRecord("a#2", 0.5, 2, [("layer", "no")], ["note"], 9, 8, 100, 50, 1e-3)
    assert PassRecord.from_json(record.to_json()) == record and record.name == "a"


def test_pass_without_a_name_is_refused_when_it_is_defined():
    with pytest.raises(TypeError, match="Nameless needs a `name`"):

        class Nameless(Pass):
            def run(self, program, ctx):
                return program


def test_base_class_of_passes_needs_no_name():
    class Base(Pass):
        """Shared by several passes."""

    assert Base.run is Pass.run


@pytest.mark.parametrize("relation", ["requires", "provides", "before", "after"])
def test_relation_given_as_a_text_is_refused_when_the_pass_is_defined(relation):
    with pytest.raises(TypeError, match=rf"{relation} must be a set of names.* not 'quantize'"):
        type("Mine", (Pass,), {"name": "mine", "run": lambda self, program, ctx: program, relation: "quantize"})
