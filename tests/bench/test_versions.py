"""`python -m bench versions`: rows, table and verdict; and the error if torch or triton is too old."""

import json
import os
import subprocess
import sys

import pytest
from checkout import ROOT

from bench import readme
from bench.__main__ import main
from bench.checks import machine_code, versions

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.data.test_a" name="well"/>
<testcase classname="tests.data.test_a" name="bad"><failure message="assert 1 == 2&#10;more">trace</failure></testcase>
<testcase classname="tests.data.test_a" name="worse"><error message="no fixture"/></testcase>
<testcase classname="tests.data.test_a" name="gpu[1]"><skipped message="no GPU"/></testcase>
<testcase classname="tests.data.test_a" name="gpu[2]"><skipped message="no GPU"/></testcase>
</testsuite></testsuites>"""
ROW = {
    "torch": "2.7.1",
    "triton": "3.3.1",
    "numpy": "2.2.6",
    "python": "3.10.13",
    "tests": {"files": ["a"], "passed": 1, "skipped": {}, "failed": {}},
    "builds": {"targets": ["sm_90"], "made": 3, "failed": {}, "broken": {}},
}


def test_outcomes_of_a_report():
    found = versions.outcomes(JUNIT)
    assert found["passed"] == 1 and found["skipped"] == {"no GPU": 2}
    assert found["failed"] == {
        "tests.data.test_a::bad": "assert 1 == 2",
        "tests.data.test_a::worse": "no fixture",
    }


def test_a_failed_test_build_or_promise_is_wrong_and_in_the_table():
    assert not versions.wrong(ROW)
    bad = {
        "1 failed": {"tests": versions.outcomes(JUNIT.replace("error", "skipped"))},
        "stopped": {"tests": {"files": ["a"], "error": "stopped after 1 minutes"}},
        "3 of 4": {"builds": ROW["builds"] | {"failed": {"MMD": "CompilationError"}}},
        "2 of 3": {"builds": ROW["builds"] | {"broken": {"MMD": ["2 spills in loops"]}}},
    }
    for said, change in bad.items():
        assert versions.wrong(ROW | change) and said in versions.table([ROW | change]), said
        assert said not in versions.table([ROW]), said
    assert versions.found_wrong([ROW]) == ""
    lines = [versions.found_wrong([ROW | change]) for change in bad.values()]
    where = "* torch 2.7.1, Triton 3.3.1: "
    assert lines[0].splitlines() == [f"{where}`tests.data.test_a::bad` failed"]
    assert lines[1:] == [
        f"{where}tests: stopped after 1 minutes",
        f"{where}MMD was not built",
        f"{where}MMD: 2 spills in loops",
    ]


def test_a_build_that_fails_is_a_row():
    row = versions.build((machine_code.CALLS[-1], "float32", "sm_1"))
    assert "sm_1" in row["build"] and row["error"].startswith("KeyError")


def test_every_launch_is_built_for_every_target():
    work = versions.work(("sm_80", "sm_90"))
    assert len(set(work)) == len(work)
    assert {(call, target) for call, _, target in work} == {
        (c, t) for c in machine_code.CALLS for t in ("sm_80", "sm_90")
    }


def test_every_listed_test_file_exists(tmp_path, capsys):
    for name in versions.TESTS:
        assert versions.test_file(name).name == f"test_{name}.py"
    assert main(["versions", "--tests", "accuracy,acuracy", "--out", str(tmp_path / "versions.json")]) == 2
    assert "test 'acuracy': there is no tests/*/test_acuracy.py" in capsys.readouterr().err


def test_an_environment_that_does_not_run_leaves_the_other_rows(tmp_path, capsys):
    out = tmp_path / "versions.json"
    out.write_text(json.dumps({"rows": [ROW]}))
    assert main(["versions", "--python", str(tmp_path / "python"), "--out", str(out)]) == 1
    assert "No such file" in capsys.readouterr().err and json.loads(out.read_text())["rows"] == [ROW]
    assert main(["versions", "--only", "middle"]) == 2
    assert "'middle': expected one of lowest, image, newest" in capsys.readouterr().err


def test_readme_shows_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "RESULTS", tmp_path / "versions.json")
    text = "<!-- bench:versions -->\n<!-- /bench -->"
    assert "Not measured yet." in readme.rewritten(text)
    versions.RESULTS.write_text(json.dumps({"rows": [ROW]}))
    assert "| 2.7.1 | 3.3.1 | 2.2.6 | 3.10.13 | 1 passed, 0 failed, 0 skipped | 3 of 3 | 3 of 3 |" in readme.rewritten(
        text
    )


@pytest.mark.parametrize(
    "name, version, module", [("torch", "2.6.0+cu124", "fastgan"), ("triton", "3.2.0", "fastgan.kernels")]
)
def test_too_old_a_version_gives_a_one_line_error(tmp_path, name, version, module):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(f"__version__ = '{version}'\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: fastgan")
    assert last.endswith(f"or newer, got {name} {version}")
