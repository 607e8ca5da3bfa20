"""Deliberate bugs, each anchored to the definition that it is in."""

import ast
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from typing import NamedTuple

from mutants_of_kernels import KERNELS
from mutants_of_package import PACKAGE


class Mutant(NamedTuple):
    """In `definition` of `file`, `old` becomes `new`: then the tests in `tests` that `-k only` selects must fail.

    A definition is a function, a class or an assignment to a name. A nested one is OUTER.INNER.
    """

    file: str
    definition: str
    old: str
    new: str
    only: str
    tests: str

    def planted(self, source: str) -> str:
        """Return the source with the bug. LookupError if `old` is not exactly once in the definition."""
        begin, end = span(source, self.definition)
        within = source[begin:end]
        if (count := within.count(self.old)) != 1:
            raise LookupError(f"{self.old!r} is {count} times in {self.definition}, expected once")
        return source[:begin] + within.replace(self.old, self.new) + source[end:]


MUTANTS = {name: Mutant(*entry) for name, entry in (KERNELS | PACKAGE).items()}


def span(source: str, definition: str) -> tuple[int, int]:
    """(begin, end) of a definition in the source, with its decorators."""
    found = spans(source).get(definition, [])
    if len(found) != 1:
        raise LookupError(f"there are {len(found)} definitions of {definition}, expected one")
    return found[0]


@cache
def spans(source: str) -> dict[str, list[tuple[int, int]]]:
    """The spans of every definition; a name may have several, as in an if and its else."""
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
