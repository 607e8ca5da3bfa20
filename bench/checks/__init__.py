"""Checks that pass or fail: counts against a baseline, machine code, versions, what only a GPU can show."""
