"""`fastgan.patch` on stand-ins of the codebases: the same modules, functions and arguments, without the formulas.

The arguments are those of signatures.json, which were read upstream."""

import importlib
import json
import logging
import sys
from pathlib import Path

import pytest

import fastgan
from fastgan import compat
from fastgan.cli import doctor, main
from fastgan.compat._patch import owner_of

SIGNATURES = json.loads((Path(__file__).parent / "signatures.json").read_text(encoding="utf-8"))
INLINE = {"dcgan", "stylegan"}
HEAD = """
class Named:
    def __getattr__(self, name):
        return self
    def __call__(self, *_):
        return self

np = torch = nn = LossReduction = AdversarialCriterions = Named()
"""
FEATURES = SIGNATURES["espnet"][1]["functions"]
VITS = SIGNATURES["vits"][0]["functions"]
# What signatures.json does not list: forks, and functions of which only the name was read.
MORE = {
    "biggan": {"losses": {"discriminator_loss": ["dis_fake", "dis_real"], "generator_loss": ["dis_fake"]}},
    "coqui": {"TTS.vocoder.layers.losses": {
        "_apply_G_adv_loss": ["scores_fake", "loss_func"],
        "_apply_D_loss": ["scores_fake", "scores_real", "loss_func"],
    }},
    "espnet": {"espnet2.gan_tts.hifigan.loss": SIGNATURES["espnet"][0]["functions"] | FEATURES},
    "lucidrains": {
        "gigagan_pytorch.gigagan_pytorch": {
            "discriminator_hinge_loss": ["real", "fake"], "generator_hinge_loss": ["fake"]
        },
    },
    "studiogan": {"utils.ops": {"LeCamEMA.__init__": ["init=7777", "decay=0.9", "start_iter=0"]}},
    "vits": {
        "modules.losses": VITS, "module.losses": VITS, "infer.lib.train.losses": VITS,
        "commons": {"clip_grad_value_": ["parameters", "clip_value", "norm_type=2"]},
    },
}  # fmt: skip


def places(codebase):
    """{module of a codebase: {name of a function, or Class.function: its arguments}}"""
    found = {}
    for file in SIGNATURES[codebase]:
        path = file["file"].removeprefix("src/").removesuffix(".py")
        found[path.replace("/", ".")] = dict(file["functions"])
    for place, functions in MORE.get(codebase, {}).items():
        found.setdefault(place, {}).update(functions)
    return found


def source(functions):
    classes, lines = {}, [HEAD]
    for name, arguments in functions.items():
        owner, _, method = name.rpartition(".")
        if owner:
            classes.setdefault(owner, []).append(
                f"    def {method}({', '.join(['self', *arguments])}): return 'theirs'"
            )
        else:
            lines.append(f"def {name}({', '.join(arguments)}): return 'theirs'")
    lines += [line for owner, methods in classes.items() for line in (f"class {owner}:", *methods)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on the path; modules imported from it are removed after the test."""
    before = dict(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name not in before and not name.startswith("fastgan")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def write(folder, modules):
    for place, text in modules.items():
        *packages, name = place.split(".")
        for i in range(len(packages)):
            (folder.joinpath(*packages[: i + 1])).mkdir(exist_ok=True)
            (folder.joinpath(*packages[: i + 1]) / "__init__.py").touch()
        folder.joinpath(*packages, f"{name}.py").write_text(text)
    importlib.invalidate_caches()


def stand_in(folder, codebase):
    """Import the modules of a codebase, and `user`, which has their names by `from ... import ...`."""
    modules = {place: source(functions) for place, functions in places(codebase).items()}
    write(folder, modules)
    (folder / "user.py").write_text("".join(f"from {place} import *\n" for place in modules))
    return {place: importlib.import_module(place) for place in modules}, importlib.import_module("user")


@pytest.mark.parametrize("codebase", sorted(SIGNATURES))
def test_every_codebase(folder, codebase, caplog):
    modules, user = stand_in(folder, codebase)
    ours, before = getattr(compat, codebase), {place: dict(vars(module)) for place, module in modules.items()}
    before_user = dict(vars(user))
    caplog.set_level(logging.INFO, "fastgan")
    with fastgan.patch(codebase) as done:
        assert not done.kept, done
        for place, names in ours.UPSTREAM.items():
            for name in names if ":" not in place and place in modules else ():
                own = getattr(owner_of(ours, place), name)
                assert getattr(modules[place], name) is own is not before[place][name]
                assert f"{place}.{name}" in done.replaced
                if not name.startswith("_"):
                    assert getattr(user, name) is own, "by from ... import ..."
                    assert f"user.{name}" in repr(done)
        assert repr(done) in caplog.text and "fastgan" not in " ".join(done.replaced)
    for place, module in modules.items():
        assert vars(module) == before[place]
    assert vars(user) == before_user


def test_declared_names_are_there_and_complete():
    """A drop-in has every name that it declares, and declares every name that it can replace."""
    for codebase in compat.modules():
        module = getattr(compat, codebase)
        declared = getattr(module, "UPSTREAM", {})
        assert (codebase in INLINE) is (not declared)
        for place, names in declared.items():
            assert all(hasattr(owner_of(module, place), name) for name in names), codebase
        listed = {name.split(".")[0] for file in SIGNATURES.get(codebase, ()) for name in file["functions"]}
        if codebase != "torchgan":  # its classes have `train_ops` upstream, and are kept
            assert listed <= {name for names in declared.values() for name in names}, codebase


def test_a_registry(folder):
    write(folder, {"basicsr.utils.registry": "class Registry:\n    _obj_map = {}\nLOSS_REGISTRY = Registry()\n"
                   "LOSS_REGISTRY.register = lambda it: LOSS_REGISTRY._obj_map.update({it.__name__: it})\n"
                   "Registry.__contains__ = lambda self, name: name in self._obj_map\n"})  # fmt: skip
    modules, _ = stand_in(folder, "basicsr")
    registry = importlib.import_module("basicsr.utils.registry").LOSS_REGISTRY._obj_map
    theirs = registry["GANLoss"] = modules["basicsr.losses.gan_loss"].GANLoss
    done = fastgan.patch("basicsr")
    assert registry["GANLoss"] is compat.basicsr.GANLoss and "LOSS_REGISTRY._obj_map['GANLoss']" in repr(done)
    done.undo()
    done.undo()
    assert registry["GANLoss"] is theirs is modules["basicsr.losses.gan_loss"].GANLoss


def test_functions_of_the_running_script_are_replaced(folder, monkeypatch):
    """rosinality's functions are defined in train.py, which is `__main__` when it runs."""
    modules, _ = stand_in(folder, "rosinality")
    script = modules["train"]
    with monkeypatch.context() as running:
        running.setitem(sys.modules, "__main__", script)
        running.delitem(sys.modules, "train")
        assert "__main__.d_logistic_loss" in fastgan.patch("rosinality").replaced
    assert script.d_logistic_loss is compat.rosinality.d_logistic_loss


def test_a_second_patch_changes_nothing(folder):
    stand_in(folder, "hifigan")
    first, second = fastgan.patch("hifigan"), fastgan.patch("hifigan")
    assert first.replaced and not second.replaced and "nothing" in repr(second)
    second.undo()
    assert sys.modules["models"].generator_loss is compat.hifigan.generator_loss
    first.undo()
    assert sys.modules["models"].generator_loss is not compat.hifigan.generator_loss


def test_a_function_with_other_arguments_is_kept(folder):
    modules, _ = stand_in(folder, "hifigan")
    changed = "def feature_loss(fmap_r, fmap_g, weight): pass\n"
    exec(changed, vars(modules["models"]))
    done = fastgan.patch("hifigan")
    assert list(done.kept) == ["models.feature_loss"] and "(fmap_r, fmap_g, weight), expected (fmap_r, fmap_g)" in str(
        done
    )
    assert "models.generator_loss" in done.replaced
    done.undo()


def test_another_codebase_of_the_same_names_is_refused(folder):
    """CycleGAN's, SPADE's and pix2pixHD's loss is `models.networks.GANLoss`; `losses` is BigGAN's and VITS's."""
    stand_in(folder, "cyclegan")
    with pytest.raises(ValueError, match=r"models.networks is not that of 'pix2pixhd' \(models.networks.GANLoss has"):
        fastgan.patch("pix2pixhd")
    stand_in(folder, "vits")
    with pytest.raises(ValueError, match="losses is not that of 'biggan'"):
        fastgan.patch("biggan")
    assert fastgan.patch("cyclegan").replaced and fastgan.patch("vits").replaced


@pytest.mark.parametrize("name, message", [
    ("hifi-gan", "got 'hifi-gan', did you mean 'hifigan'"),
    ("nothing", "got 'nothing', expected one of 'audiocraft'"),
    ("stylegan", "'stylegan' has its losses inline"),
])  # fmt: skip
def test_wrong_names(name, message):
    with pytest.raises(ValueError, match=message):
        fastgan.patch(name)


def test_a_codebase_that_is_not_imported():
    with pytest.raises(ImportError, match=r"'vocos' is not imported \(vocos.loss\); import it before"):
        fastgan.patch("vocos")


def test_the_doctor_names_codebases_that_could_be_imported(folder, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_examine_device", lambda device: True)
    write(folder, {place: source(functions) for name in ("vocos", "vits") for place, functions in places(name).items()})
    write(folder, {"models": "def generator_loss(prediction): raise SystemExit\nraise SystemExit\n", "broken": "("})
    assert main(["doctor"]) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("codebases"))
    assert "vocos.loss: fastgan.patch('vocos')" in said and "losses: fastgan.patch('vits')" in said
    assert "hifigan" not in said and "biggan" not in said and "models" not in sys.modules
