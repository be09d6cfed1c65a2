"""The directions that imports may take, and what `import llmc` may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "passes": ("llmc.errors", "llmc.ir", "llmc.pipeline", "llmc.plugins", "llmc.runtime", "llmc.passes"),
    "backends": ("llmc.errors", "llmc.ir", "llmc.pipeline", "llmc.plugins", "llmc.runtime", "llmc.backends"),
    "llmc/ir": ("llmc.errors", "llmc.ir"),
}


def imports(path: Path) -> set[str]:
    """Every module of llmc that a file imports, `from a import b` counted as `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "llmc"}


def core_files() -> list[Path]:
    return [p for p in (ROOT / "llmc").rglob("*.py") if not {"passes", "backends"} & set(p.relative_to(ROOT).parts)]


@pytest.mark.parametrize("folder", ALLOWED)
def test_folder_imports_only_what_it_may(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for name in imports(path):
            assert name.startswith(ALLOWED[folder]), f"{path} imports {name}"


def test_core_names_no_pass_and_no_backend():
    for path in core_files():
        for name in imports(path):
            assert not name.startswith(("llmc.passes", "llmc.backends")), f"{path} imports {name}"


def test_backends_do_not_import_each_other():
    for path in (ROOT / "backends").rglob("*.py"):
        own = path.relative_to(ROOT / "backends").parts[0]
        for name in imports(path):
            if name.startswith("llmc.backends.") and own != "builtin.py":
                assert name.split(".")[2] == own, f"{path} imports {name}"


def test_import_llmc_loads_nothing_heavy():
    heavy = ("torch", "transformers", "networkx", "numpy")
    code = f"import llmc, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
