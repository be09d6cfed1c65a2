"""Packed weights in files that are mapped in large pages."""

from __future__ import annotations

import numpy as np
import pytest

from llmc.backends.cpu import pages


@pytest.mark.parametrize("size", [1, pages.PIECE - 1, pages.PIECE, pages.PIECE + 1, 3 * pages.PIECE + 4097])
def test_mapped_file_has_the_bytes_that_were_written(tmp_path, size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    pages.write(tmp_path / "weights.bin", data)
    found = pages.mapped(tmp_path / "weights.bin")
    assert (tmp_path / "weights.bin").stat().st_size == size
    assert np.array_equal(found, data) and not found.flags.writeable
