"""What the backend says of itself, and that naming it costs nothing."""

import subprocess
import sys
from importlib import import_module

from llmc_xla.backend import XlaBackend

from llmc.plugins.registry import default


def test_backend_is_found_by_its_entry_point():
    entry = next(entry for entry in default().entries("backends") if entry.name == "xla")
    assert (entry.distribution, entry.load()) == ("llmc-xla", XlaBackend)


def test_available_backend_names_where_it_runs():
    backend = XlaBackend()
    assert backend.availability().available
    assert "tpu (export)" in backend.targets() and "jax 0.10" in backend.version()


def test_unusable_jax_is_the_reason(monkeypatch):
    jax = import_module("jax")

    def devices():
        raise RuntimeError("no driver")

    monkeypatch.setattr(jax, "devices", devices)
    assert XlaBackend().availability().reason == "jax cannot be used: no driver"


def test_registering_imports_no_jax():
    code = "import sys, llmc.plugins.registry as r; r.default(); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
