"""Every snippet of README and docs/ works: Python blocks run, and the arguments of command lines are parsed.

The Python blocks of a page run one after the other in one namespace. It begins with the names in `names`: the reader's
networks, optimizers and data. `steps=5_000` becomes `steps=2`. Modules of other codebases are stand-ins with the names
that the snippet imports. A block after `<!-- not run: REASON -->` is only compiled.
"""

import re
import shlex
import sys
from types import ModuleType

import pytest
import torch
from checkout import ROOT
from torch import nn

import fastgan
from bench import options
from fastgan.cli.arguments import make_parser

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- not run: (.+) -->\n)?```(\w+)\n(.*?)^```", re.M | re.S)


def blocks(page, language):
    """(reason not to run it or "", source) of a page's blocks."""
    text = page.read_text(encoding="utf-8")
    return [(reason, source) for reason, of, source in BLOCK.findall(text) if of == language]


def pages_with(*languages):
    """Pages that have blocks of such a language, as pytest parameters."""
    found = [page for page in PAGES if any(blocks(page, language) for language in languages)]
    return [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in found]


def names():
    torch.manual_seed(0)
    generator, discriminator = nn.Linear(64, 2), nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    real, z = torch.randn(16, 2), torch.randn(16, 64)
    fake = generator(z)
    return {
        "__name__": "__main__", "torch": torch, "fastgan": fastgan, "generator": generator, "z": z, "real": real,
        "discriminator": discriminator, "fake": fake, "images": real, "loader": torch.utils.data.DataLoader(real, 8),
        "optimizer_g": torch.optim.Adam(generator.parameters()), "gain": 1.0,
        "optimizer_d": torch.optim.Adam(discriminator.parameters()), "gen_logits": discriminator(fake),
        "real_logits": discriminator(real), "fake_logits": discriminator(fake),
    }  # fmt: skip


@pytest.fixture
def other_codebases(monkeypatch):
    """Stand-ins for the modules that snippets import from other codebases."""

    def stand_in(name, **has):
        module = ModuleType(name)
        vars(module).update(has)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    networks = stand_in("models.networks", GANLoss=nn.Module)
    of_hifigan = ("Generator", "MultiPeriodDiscriminator", "MultiScaleDiscriminator")
    stand_in("models", networks=networks, **dict.fromkeys(of_hifigan, nn.Module))
    path = ["taming", "modules", "losses", "vqperceptual"]
    for i in range(1, len(path) + 1):
        stand_in(".".join(path[:i]), hinge_d_loss=None)


@pytest.mark.usefixtures("one_thread", "other_codebases")
@pytest.mark.parametrize("page", pages_with("python"))
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = names()
    for number, (reason, source) in enumerate(blocks(page, "python")):
        short = re.sub(r"\bsteps=\d[\d_]*", "steps=2", source)
        code = compile(short, f"{page.name}, Python block {number + 1}", "exec")
        if not reason:
            exec(code, found)


def test_few_blocks_are_not_run():
    assert sum(bool(reason) for page in PAGES for reason, _ in blocks(page, "python")) <= 3


def commands(page):
    for _, source in blocks(page, "bash"):
        for line in source.splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                yield words[: words.index("&&")]
                words = words[words.index("&&") + 1 :]
            if words:
                yield words


def arguments(words, *starts):
    """The words after one of these beginnings of a command, or None."""
    for start in starts:
        for i in range(len(words) - len(start) + 1):
            if words[i : i + len(start)] == start:
                return words[i + len(start) :]
    return None


@pytest.mark.parametrize("page", pages_with("bash"))
def test_the_arguments_of_commands_are_parsed(page):
    extras = set(re.findall(r'"(\w+)": ', (ROOT / "setup.py").read_text().split("extras_require")[1]))
    for words in commands(page):
        ours = arguments(words, ["fastgan"], ["-m", "fastgan"])
        if words[0] == "fastgan" or words[0] == "torchrun":
            assert callable(make_parser().parse_args(ours).command)
        elif (bench := arguments(words, ["-m", "bench"])) is not None:
            options.parser().parse_args(bench)
        elif (install := arguments(words, ["pip", "install"])) is not None:
            for asked in re.findall(r"\[([\w,]+)\]", " ".join(install)):
                assert set(asked.split(",")) <= extras, words
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists()
        else:
            assert words[:3] == ["python", "-m", "pytest"] or words[0] in ("bash", "pre-commit", "mkdocs"), words


@pytest.mark.parametrize("page", [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in PAGES])
def test_links_in_the_repository_exist(page):
    """`mkdocs build --strict` checks those of the site, whose only additional pages are the drop-ins."""
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path = (page.parent / link.split("#")[0]).resolve()
        made = path.parent == ROOT / "docs" / "drop-ins" and path.stem in fastgan.compat.modules()
        assert "://" in link or not link.split("#")[0] or path.exists() or made, link


def test_every_codebase_is_in_the_list():
    text = (ROOT / "docs" / "drop-ins" / "index.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"^\| .* \| \[\w+\]\((\w+)\.md\) \|$", text, re.M))) == fastgan.compat.modules()


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
