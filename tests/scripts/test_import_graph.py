"""The import graph: printed by layer, and shown as it is in the documentation."""

from pathlib import Path

from scripts.import_graph import layers_of, read_graph, to_mermaid, to_table

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_picture_in_the_documentation_is_the_graph_of_the_code() -> None:
    """A new import between packages has to be drawn in docs/architecture.md."""
    assert to_mermaid(read_graph()) in PAGE.read_text(encoding="utf-8")


def test_every_package_stands_above_what_it_imports() -> None:
    """No package imports one of its own layer or of a higher one."""
    graph = read_graph()
    layers = layers_of(graph)
    height = {package: n for n, layer in enumerate(layers) for package in layer}
    assert {"server", "app", "usage", "web", "settings"} <= height.keys()
    for package, imported in graph.items():
        assert all(height[each] < height[package] for each in imported)


def test_the_picture_leaves_out_what_other_imports_imply() -> None:
    """The table has every import; the picture shows only those that are not implied."""
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set[str]()}
    assert to_mermaid(graph) == "flowchart TD\n    a --> b\n    b --> c"
    assert to_table(graph).splitlines()[0] == " 3  a              imports b, c"
