"""Backends that refuse something, for the tests of the conformance suite."""

from llmc.backends.eager.backend import EagerBackend
from llmc.ir.formats import INT4
from llmc.runtime.contract import Availability, unsupported


class Lacking(EagerBackend):
    """The reference on hardware without bfloat16."""

    name = "lacking"
    formats = ("f32", "f16", "int8", *INT4)
    lacks = {"bf16": "its registers know no bfloat16"}

    def lower(self, program):
        assert all(str(weight.format) != "bf16" for weight in program.weights.values())
        return super().lower(program)


class Refusing(EagerBackend):
    """The reference without an op, and without a word about it."""

    name = "refusing"

    def lower(self, program):
        for node in program.find("gelu"):
            raise unsupported(self.name, "gelu", node.meta["origin"], "nobody has written it")
        return super().lower(program)


class Absent(EagerBackend):
    """The reference where it cannot run."""

    name = "absent"

    def availability(self):
        return Availability(False, "there is no such device")
