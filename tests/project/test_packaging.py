"""Published files: the sdist and its wheel, the export for the Hugging Face kernels hub, the files that services
read."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from checkout import ROOT

import fastgan
from bench.checks import hub_export, versions


def run(*command, cwd, **environment):
    env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "FASTGAN_BACKEND", "PYTHONPATH")}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env=env | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sdist_and_the_wheel_made_of_it(tmp_path):
    """They contain the kernels in the package, and no tests. test_import.py tests the wheel of a checkout."""
    pytest.importorskip("setuptools")
    source, nothing = tmp_path / "source", shutil.ignore_patterns(".git", "build", "site", "*.egg-info", "results")
    shutil.copytree(ROOT, source, symlinks=True, ignore=nothing)
    run(sys.executable, "setup.py", "-q", "sdist", "-d", str(tmp_path), cwd=source)
    sdist = next(tmp_path.glob("*.tar.gz"))
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"fastgan/kernels/adversarial.py", "fastgan/py.typed", "README.md", "LICENSE", "setup.py"} <= names
    assert not [name for name in names if re.match(r"(tests|bench|docs|examples)\b", name)]
    options = ("-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path))
    run(sys.executable, "-m", "pip", "wheel", *options, str(sdist), cwd=tmp_path)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {"fastgan/kernels/adversarial.py", "fastgan/compat/hifigan.py", "fastgan/py.typed"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fastgan"}


HUB = """
import importlib.util, sys, torch, fastgan
spec = importlib.util.spec_from_file_location("a_name_of_its_own", sys.argv[1] + "/__init__.py")
sys.modules["a_name_of_its_own"] = hub = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hub)
for objective in ("minimax", "relativistic_average"):
    real, fake = torch.randn(2, 50, dtype=torch.float64).requires_grad_().unbind()
    losses = [module.discriminator_loss(real, fake, objective) for module in (hub, fastgan)]
    grads = [torch.autograd.grad(loss, (real, fake)) for loss in losses]
    assert torch.equal(*losses) and all(map(torch.equal, *grads)), objective
out = hub.discriminator_value_and_grad(real.detach(), fake.detach())
assert len(out.grads) == 2 and out.stats.error.isfinite()
torch.testing.assert_close(hub.mmd_loss(real.detach()[:, None], fake.detach()[:, None]),
                           fastgan.mmd_loss(real.detach()[:, None], fake.detach()[:, None]))
maps = [torch.randn(2, 3, 20) for _ in range(2)]
torch.testing.assert_close(hub.feature_matching_loss(*maps), fastgan.feature_matching_loss(*maps))
assert hub.discriminator_loss.__module__.startswith("a_name_of_its_own")
"""


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_the_export_for_the_hub_computes_what_fastgan_computes(backend, tmp_path, request):
    """In one process, under another name than the installed fastgan; also with the real kernels, in the interpreter."""
    interpreted = {}
    if backend == "triton":
        request.getfixturevalue("kernel_device")
        interpreted = {"TRITON_INTERPRET": "1", "FASTGAN_BACKEND": "triton"}
    package = hub_export.export(tmp_path)
    run(sys.executable, "-c", HUB, str(package), cwd=tmp_path, PYTHONPATH=str(ROOT), **interpreted)


def test_the_export_imports_pytorch_and_the_standard_library_alone(tmp_path):
    for path in hub_export.export(tmp_path).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            found = {name.split(".")[0] for name in names}
            assert found <= {"torch", "triton", *sys.stdlib_module_names}, path


def test_all_files_name_the_same_version():
    constraints = (ROOT / "constraints.txt").read_text()
    assert f"version: {fastgan.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    ruff = re.search(r"ruff-pre-commit\n\s+rev: v(\S+)", (ROOT / ".pre-commit-config.yaml").read_text())[1]
    assert f"ruff=={ruff}\n" in constraints


def test_workflows_call_existing_commands():
    texts = {path.stem: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    assert "bash .ci/run" in texts["ci"] and (ROOT / ".ci" / "run").exists()
    pairs = re.search(r"pair: \[(.*)\]", texts["versions"])[1].split(", ")
    assert pairs == [pair.name for pair in versions.PAIRS]
    assert "python -m build" in texts["release"]
