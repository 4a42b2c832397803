"""Names that others import stay where they are, and no modules import each other in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter

import grimp

from spalloc_server import __version__
from tests import published_imports
from tests.pages import ROOT

TOP = ("configuration", "controller", "coordinates", "errors", "links", "machine", "server")


def test_all_that_was_published_can_be_imported_from_where_it_was() -> None:
    assert all(getattr(published_imports, name) is not None for name in published_imports.__all__)
    assert published_imports.MachineOfExamples is published_imports.Machine
    assert published_imports.Controller.__module__ == "spalloc_server.controller"  # what a pickle of one names


def test_config_files_and_programs_in_the_examples_import_published_modules_only() -> None:
    for path in sorted((ROOT / "examples").glob("*.py")):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        ours = {str(node.module) for node in imports if str(node.module).startswith("spalloc_server")}
        assert ours <= {f"spalloc_server.{name}" for name in TOP}, path


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("spalloc_server", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    order = list(TopologicalSorter(imports).static_order())  # raises CycleError, which names the circle
    assert set(order) == graph.modules


def test_installers_take_this_version_for_newer_than_all_published_ones() -> None:
    """Published versions have the epoch 1, and whatever lacks it is older than they are."""
    epoch, _, numbers = __version__.partition("!")
    assert (int(epoch), tuple(map(int, numbers.split(".")))) > (1, (7, 0, 0))
