"""The folders of the checkout, for tests that read its files or run processes in it."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
