"""The scripts of examples/ run for two steps, as a reader would run them."""

import re
import runpy
import sys

import pytest
from checkout import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
pytestmark = pytest.mark.usefixtures("one_thread")


TRAINING = [path for path in EXAMPLES if path.stem != "use_generator"]  # run by test_generator.py


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), "--steps", "2"])
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    numbers = [float(x) for x in re.findall(r"(?:loss_?\w*|loss of \w) (-?[\d.]+|nan|inf)", printed)]
    assert "step 2:" in printed and numbers and all(abs(x) < 1e4 for x in numbers)


def test_the_example_trainer_writes_its_checkpoint(tmp_path, monkeypatch, capsys):
    path = next(path for path in EXAMPLES if path.stem == "trainer")
    monkeypatch.setattr(sys, "argv", [str(path), "--steps", "1", "--out", str(tmp_path / "a.pt")])
    runpy.run_path(str(path), run_name="__main__")
    assert (tmp_path / "a.pt").stat().st_size > 0


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
