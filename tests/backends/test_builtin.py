"""What the backends that come with llmc promise beyond the conformance suite."""

import pytest

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.emit import EMIT
from llmc.backends.eager.backend import EagerBackend
from llmc.conformance.programs import every_output
from llmc.ir.op import OPS
from llmc.ir.ops import FUSED
from llmc.runtime.contract import BLOCK


def test_every_op_of_the_dialect_has_cpp():
    assert set(EMIT) == set(OPS) - {*FUSED} | CpuBackend.fused


@pytest.mark.parametrize("backend", [EagerBackend, CpuBackend])
def test_rows_are_exact_and_caches_are_as_small_as_can_be(backend):
    executable = backend().lower(every_output())
    assert executable.row_exact
    assert executable.block_bytes == BLOCK * 2 * 8 * 4
