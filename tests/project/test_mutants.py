"""Every deliberate bug of test_mutations.py fits the sources. That tests find the bug is tested there."""

import ast
from functools import cache

import pytest
from checkout import ROOT
from mutants import MUTANTS, Mutant, span
from mutants_of_kernels import KERNELS
from mutants_of_package import PACKAGE

SOURCE = """
ONE = 1


@decorated(ONE)
def f(x):
    return x + ONE


class Outer:
    def f(self):
        def inner():
            return ONE + ONE

        return ONE


def last(): return ONE"""


@cache
def source(file):
    return (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fits_the_source(name):
    mutant = MUTANTS[name]
    try:
        text = mutant.planted(source(mutant.file))
    except LookupError as error:
        pytest.fail(f"mutant {name!r} of {mutant.file}: {error}", pytrace=False)
    assert text != source(mutant.file)
    ast.parse(text)
    assert (ROOT / mutant.tests).is_file()


def test_no_name_is_given_twice():
    assert not KERNELS.keys() & PACKAGE.keys()


@pytest.mark.parametrize(
    ("definition", "first", "last"),
    [
        ("ONE", "ONE = 1", "ONE = 1"),
        ("f", "@decorated(ONE)", "    return x + ONE"),
        ("Outer.f", "    def f(self):", "        return ONE"),
        ("Outer.f.inner", "        def inner():", "            return ONE + ONE"),
        ("last", "def last(): return ONE", "def last(): return ONE"),
    ],
)
def test_the_span_of_a_definition(definition, first, last):
    begin, end = span(SOURCE, definition)
    lines = SOURCE[begin:end].splitlines()
    assert (lines[0], lines[-1]) == (first, last)


@pytest.mark.parametrize(
    ("definition", "old", "said"),
    [
        ("Outer.f.inner", "ONE", "'ONE' is 2 times in Outer.f.inner, expected once"),
        ("f", "y", "'y' is 0 times in f, expected once"),
        ("inner", "ONE", "there are 0 definitions of inner, expected one"),
    ],
)
def test_a_mutant_that_does_not_fit_is_named(definition, old, said):
    with pytest.raises(LookupError, match=said):
        Mutant("a.py", definition, old, "2", "", "").planted(SOURCE)
    assert "return ONE + 2" in Mutant("a.py", "Outer.f.inner", "+ ONE", "+ 2", "", "").planted(SOURCE)
