"""Print the packages of the service as layers, and which package imports which.

    python scripts/import_graph.py             a table, for the terminal
    python scripts/import_graph.py --mermaid   the picture in docs/architecture.md

A package is in the lowest layer that stands above everything that it imports. The exit
code is 1 where packages import each other in a circle, since then no layers exist.
"""

import sys
from graphlib import CycleError, TopologicalSorter

import grimp

ROOT = "service"

Graph = dict[str, set[str]]


def read_graph() -> Graph:
    """Return the packages that each package imports; a module alone is a package."""
    modules = grimp.build_graph(ROOT, exclude_type_checking_imports=True)
    graph: Graph = {}
    for module in modules.modules - {ROOT}:
        imported = modules.find_modules_directly_imported_by(module)
        graph.setdefault(_package_of(module), set()).update(map(_package_of, imported))
    return {package: imported - {package, ""} for package, imported in graph.items()}


def layers_of(graph: Graph) -> list[list[str]]:
    """Return the packages by layer, the lowest first; `CycleError` in a circle."""
    height: dict[str, int] = {}
    for package in TopologicalSorter(graph).static_order():
        height[package] = max((height[each] + 1 for each in graph[package]), default=0)
    return [
        sorted(package for package in graph if height[package] == layer)
        for layer in range(max(height.values()) + 1)
    ]


def to_table(graph: Graph) -> str:
    """Return one line for each package, the highest layer first."""
    lines = []
    for number, layer in reversed(list(enumerate(layers_of(graph), 1))):
        for package in layer:
            imported = ", ".join(sorted(graph[package])) or "nothing of the service"
            lines.append(f"{number:2}  {package:14} imports {imported}")
    return "\n".join(lines)


def to_mermaid(graph: Graph) -> str:
    """Return a Mermaid flow chart; imports that others imply are left out."""
    lines = ["flowchart TD"]
    for package in sorted(graph):
        direct = sorted(_direct(graph, package))
        lines += [f"    {package} --> {each}" for each in direct]
    return "\n".join(lines)


def _package_of(module: str) -> str:
    return module.partition(f"{ROOT}.")[2].partition(".")[0]


def _direct(graph: Graph, package: str) -> set[str]:
    """Return the imports of a package that none of its other imports reaches."""
    imported = graph[package]
    return imported - set().union(*(_reached(graph, each) for each in imported))


def _reached(graph: Graph, package: str) -> set[str]:
    return graph[package].union(*(_reached(graph, each) for each in graph[package]))


def main(arguments: list[str]) -> None:
    """Print the graph."""
    graph = read_graph()
    try:
        shown = to_mermaid(graph) if "--mermaid" in arguments else to_table(graph)
    except CycleError as error:
        sys.exit("packages import each other: " + " -> ".join(error.args[1]))
    sys.stdout.write(shown + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
