"""Deliberate bugs, each anchored to the definition that it is in."""

import ast
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from typing import NamedTuple

from mutants_of_kernels import KERNELS
from mutants_of_package import PACKAGE


class Mutant(NamedTuple):
    """In `definition` of `file`, `old` becomes `new`: then those of `tests` that pytest's `-k only` selects must fail.

    A definition is a function or a class, or what an assignment gives a name to. One in another is OUTER.INNER.
    """

    file: str
    definition: str
    old: str
    new: str
    only: str
    tests: str

    def planted(self, source: str) -> str:
        """The file's text with the bug in it. LookupError if `old` is not once in the definition."""
        begin, end = span(source, self.definition)
        within = source[begin:end]
        if (count := within.count(self.old)) != 1:
            raise LookupError(f"{self.old!r} is {count} times in {self.definition}, expected once")
        return source[:begin] + within.replace(self.old, self.new) + source[end:]


MUTANTS = {name: Mutant(*entry) for name, entry in (KERNELS | PACKAGE).items()}


def span(source: str, definition: str) -> tuple[int, int]:
    """Where a definition begins, with its decorators, and where its last line ends."""
    found = spans(source).get(definition, [])
    if len(found) != 1:
        raise LookupError(f"there are {len(found)} definitions of {definition}, expected one")
    return found[0]


@cache
def spans(source: str) -> dict[str, list[tuple[int, int]]]:
    """Those of every definition. An if and an else may each have one of a name."""
    ends = [0, *accumulate(map(len, source.splitlines(keepends=True)))]
    found: dict[str, list[tuple[int, int]]] = {}
    for name, node in definitions(ast.parse(source)):
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
        found.setdefault(name, []).append((ends[first - 1], ends[node.end_lineno]))
    return found


def definitions(node: ast.AST, within: str = "") -> Iterator[tuple[str, ast.stmt]]:
    for child in ast.iter_child_nodes(node):
        inside = within
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield within + child.name, child
            inside = f"{within}{child.name}."
        elif isinstance(child, (ast.Assign, ast.AnnAssign)):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            yield from ((within + target.id, child) for target in targets if isinstance(target, ast.Name))
        if isinstance(child, ast.stmt):
            yield from definitions(child, inside)
