"""What every test process begins with."""

import gc
import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
"""Half the time of tests with XLA would go into its optimizer, which is not what they are about. Read when jax starts."""

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
"""Processes of the tests would compile all of llmc again, one by one."""


def pytest_collection_finish():
    """What was imported stays: the collector need not look at it again, which takes a tenth of every capture."""
    gc.collect()
    gc.freeze()
