"""The report of `fastgan.inspect_step`, and `fastgan doctor --step`."""

import importlib
import json
import sys

import pytest
import torch
import training_steps
from torch import nn

import fastgan
from fastgan.cli import main
from fastgan.inspection import Finding, StepReport

pytestmark = pytest.mark.usefixtures("one_thread")


def test_report_as_text_and_as_json():
    report = fastgan.inspect_step(training_steps.DCGAN())
    assert isinstance(report, StepReport) and all(isinstance(f, Finding) for f in report.findings)
    text = str(report)
    assert text.startswith("5 findings, 3 notes\n") and "tests/training_steps.py" in text and "GFLOP" in text
    assert max(map(len, text.splitlines())) <= 200
    data = json.loads(json.dumps(report.to_dict()))
    assert [f["line"] for f in data["findings"]] == [f.line for f in report.findings]
    assert data["operators"] == report.operators and data["accelerated"] is False
    with pytest.raises(AttributeError):
        report.operators = 0


def test_flops_of_grouped_convolutions_are_counted_right():
    x, expected = torch.randn(2, 8, 10, requires_grad=True), (2 * 2 * 10 * 16 * 2 * 5, 2 * 2 * 10 * 8 * 4 * 4)
    for layer, flops in zip((nn.Conv1d(8, 16, 5, 1, 2, groups=4), nn.ConvTranspose1d(8, 4, 4, 2, 1)), expected):
        backward = lambda: layer(x).sum().backward()  # noqa: B023, E731
        assert (fastgan.inspect_step(layer, x).flops, fastgan.inspect_step(backward).flops) == (flops, 3 * flops)


def test_operators_and_flops_are_counted():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    report = fastgan.inspect_step(lambda: (a @ b).t()[0] + 1)
    assert (report.operators, report.flops) == (2, 2 * 3 * 5 * 7)
    conv, x = nn.Conv1d(4, 6, 3, groups=2), torch.randn(2, 4, 10)
    forward = 2 * conv.weight.numel() * 2 * 8
    assert fastgan.inspect_step(lambda: conv(x)).flops == forward
    assert fastgan.inspect_step(lambda: conv(x).sum().backward()).flops == 2 * forward  # x needs no gradient


def test_a_known_codebase_is_named(tmp_path, monkeypatch):
    source = "def feature_loss(fmap_r, fmap_g): pass\ndef generator_loss(disc_outputs): pass\n"
    (tmp_path / "models.py").write_text(
        source + "def discriminator_loss(disc_real_outputs, disc_generated_outputs): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "models", None)  # so that the import below is undone
    del sys.modules["models"]
    assert "patch" not in str(fastgan.inspect_step(training_steps.DCGAN()))
    importlib.import_module("models")
    assert "fastgan.patch('hifigan') serves models" in str(fastgan.inspect_step(training_steps.DCGAN()))


SCRIPT = """
import torch
from torch import nn

def make_step(reads=True):
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step():
        optimizer.zero_grad()
        loss = net(torch.ones(3, 2)).mean()
        loss.backward()
        optimizer.step()
        print("a step")
        return loss.item() if reads else loss

    return step

quiet = make_step(False)
number = 3

def fails():
    raise ValueError("no data")

def ends():
    raise SystemExit(0)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "stranger.py").write_text(SCRIPT)
    yield tmp_path / "stranger.py"
    sys.modules.pop("stranger", None)


def test_doctor_inspects_a_step(script, capsys):
    assert main(["doctor", "--step", "stranger:make_step"]) == 1
    said = capsys.readouterr()
    line = 1 + SCRIPT.splitlines().index("        return loss.item() if reads else loss")
    assert f"stranger.py:{line}: the host waits for the device: .item()" in said.out
    assert said.err.count("a step") == 2 and "a step\n" not in said.out
    assert main(["doctor", "--step", "stranger:quiet"]) == 0
    assert capsys.readouterr().out.startswith("no findings, no notes\n")
    assert main(["doctor", "--step", "stranger:make_step", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["line"] == line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--step", "stranger"], "expected module:function"),
        (["--step", ":f"], "expected module:function"),
        (["--step", "stranger:nothing"], "stranger has no 'nothing'"),
        (["--step", "stranger:number"], "is of type int"),
        (["--step", "no_such_module:f"], "raised ModuleNotFoundError"),
        (["--step", "stranger:fails"], "raised ValueError at"),
        (["--step", "stranger:ends"], "raised SystemExit at"),
        (["--step", ""], "expected module:function"),
        (["--json"], "--json: is for --step"),
    ],
)
def test_doctor_refuses(script, arguments, said, capsys):
    assert main(["doctor", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
