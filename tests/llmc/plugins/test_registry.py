"""Plugins: installed distributions, made on disk and found by importlib.metadata."""

import subprocess
import sys
from importlib.metadata import distributions

import pytest

from llmc.errors import PluginError, UnsupportedError
from llmc.plugins.registry import DISABLED_VARIABLE, Registry, default

GOOD = """
from llmc.plugins.hooks import hookimpl

class Half:
    '''Halve everything. And no more.

    Before: x
    '''
    name = "half"

from llmc.runtime.contract import Availability, Backend

class Box(Backend):
    '''A backend.'''
    name = "box"

    def lower(self, program):
        raise ZeroDivisionError("out of paper")

class Elsewhere(Box):
    def availability(self):
        return Availability(False, "there is no such chip")

class Failing(Box):
    def __init__(self):
        raise ValueError("not today")

@hookimpl
def llmc_passes(register):
    register("half", "{module}:Half")
    register("absent", "{module}.nowhere:Absent")

@hookimpl
def llmc_backends(register):
    register("box", Box)
    register("elsewhere", Elsewhere)
    register("failing", Failing)
    register("half", Half)

@hookimpl
def llmc_recipes(register):
    register("halves", ["half", {{"name": "half", "by": 2}}])
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(distribution, source)` writes a distribution with one plugin module, as pip would."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(DISABLED_VARIABLE, raising=False)

    def write(distribution, source=GOOD, version="1.2"):
        module = distribution.replace("-", "_") + "_plugin"
        (tmp_path / f"{module}.py").write_text(source.format(module=module) if source is GOOD else source)
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[llmc]\n{distribution}-entry = {module}\n")

    yield write
    for name in [name for name in sys.modules if name.endswith("_plugin")]:
        del sys.modules[name]


@pytest.fixture
def installed(tmp_path):
    """The entry points of what was installed, and nothing else."""
    return lambda: [point for item in distributions(path=[str(tmp_path)]) for point in item.entry_points]


def test_plugin_provides_passes_backends_and_recipes(install, installed):
    install("my-plugin")
    registry = Registry(installed())
    assert registry.pass_class("half").name == "half"
    assert type(registry.backend("box")).__name__ == "Box"
    assert registry.recipe("halves") == ["half", {"name": "half", "by": 2}]
    assert registry.versions() == {"my-plugin": "1.2"} and not registry.broken


def test_entries_tell_whose_they_are_and_what_they_do(install, installed):
    install("my-plugin")
    registry = Registry(installed())
    half, absent = registry.entries("passes")
    assert (half.name, half.distribution, half.version, half.doc) == ("half", "my-plugin", "1.2", "Halve everything.")
    assert "cannot be imported" in absent.doc
    assert registry.entries("recipes")[0].doc == "half, half"


def test_class_that_cannot_be_imported_is_an_error_when_it_is_used(install, installed):
    install("my-plugin")
    with pytest.raises(PluginError, match=r"'absent' of my-plugin cannot be imported from my_plugin_plugin\.nowhere:Absent"):
        Registry(installed()).pass_class("absent")


def test_name_used_twice_is_an_error_naming_both_distributions(install, installed):
    install("one")
    install("two")
    with pytest.raises(PluginError, match="pass 'half' comes from both one and two"):
        Registry(installed())


def test_name_of_a_built_in_pass_cannot_be_taken(install):
    install("greedy", GOOD.replace('"half", "{module}:Half"', '"canonicalize", "{module}:Half"').format(module="x"))
    with pytest.raises(PluginError, match="'canonicalize' comes from both llmc and greedy"):
        Registry()


MARKED = "from llmc.plugins.hooks import hookimpl\n@hookimpl\n"
BROKEN = {
    "import": "raise RuntimeError('out of order')",
    "hook": MARKED + "def llmc_passes(register):\n    register('early', 'a:B')\n    raise RuntimeError('out of order')\n",
    "misspelt": MARKED + "def llmc_pases(register): pass",
    "value": MARKED + "def llmc_passes(register): register('whole', 'no class')",
    "recipe": MARKED + "def llmc_recipes(register): register('whole', 'half')",
}


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN)
def test_broken_plugin_is_reported_and_skipped(install, installed, source):
    install("good")
    install("bad", source)
    with pytest.warns(UserWarning, match="plugin 'bad-entry' of bad is skipped"):
        registry = Registry(installed())
    (broken,) = registry.broken
    assert (broken.name, broken.distribution) == ("bad-entry", "bad") and broken.problem
    assert [entry.name for entry in registry.entries("passes")] == ["half", "absent"]
    assert registry.versions() == {"good": "1.2"}
    registry.manager.hook.llmc_pass_started(name="x", program=None)


@pytest.mark.parametrize("excluded", ["good-entry", "good", "other, GOOD"])
def test_plugin_can_be_excluded_by_entry_point_or_distribution(install, installed, monkeypatch, excluded):
    install("good")
    monkeypatch.setenv(DISABLED_VARIABLE, excluded)
    registry = Registry(installed())
    assert not registry.entries("passes") and not registry.versions() and not registry.broken
    assert DISABLED_VARIABLE in registry.plugins[0].problem


def test_function_without_the_mark_is_no_hook(install, installed):
    install("plain", "def llmc_passes(register): register('half', 'a:B')")
    assert not Registry(installed()).entries("passes")


def test_unknown_name_is_refused_with_near_and_known_names(install, installed):
    install("good")
    registry = Registry(installed())
    with pytest.raises(PluginError, match=r"no pass is named 'hafl'; did you mean 'half'\? known: half, absent"):
        registry.pass_class("hafl")
    with pytest.raises(PluginError, match="no recipe is named 'zzz'; known: halves"):
        registry.recipe("zzz")


def test_built_in_passes_backends_and_recipes_are_registered_by_llmc():
    registry = default()
    assert default() is registry
    for kind, name in [("passes", "canonicalize"), ("backends", "eager"), ("backends", "cpu"), ("recipes", "int8")]:
        assert {entry.name: entry.distribution for entry in registry.entries(kind)}[name] == "llmc"
    own = [{"name": "quantize", "bits": 8}, "fuse-gated-linear", "fuse-rounding"]
    assert registry.recipe("int8") == [*registry.recipe("fuse"), *own]


def test_registry_loads_nothing_heavy():
    code = (
        "import sys; from llmc.plugins.registry import default; default();"
        "print([n for n in ('torch', 'numpy', 'networkx', 'pydantic') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("elsewhere", UnsupportedError, "cannot run here: there is no such chip"),
        ("failing", PluginError, "my-plugin cannot be made: ValueError: not today"),
        ("half", PluginError, "my-plugin is .*no Backend"),
    ],
)
def test_backend_that_cannot_be_used_is_refused_by_name(install, installed, name, error, message):
    install("my-plugin")
    with pytest.raises(error, match=f"'{name}'.*{message}"):
        Registry(installed()).backend(name)


def test_backend_that_fails_is_told_by_name(install, installed):
    from llmc.conformance.programs import every_output
    from llmc.runtime.lowering import lower

    install("my-plugin")
    box = Registry(installed()).backend("box")
    with pytest.raises(UnsupportedError, match=r"'box' failed to lower the program: ZeroDivisionError: out of paper"):
        lower(box, "box", every_output())
