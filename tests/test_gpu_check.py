"""The program of make gpu-check, on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "tests" / "benchmarks" / "gpu_check.py"
STEPS = ("machine", "scan", "agreement", "step times", "graphs", "compiled", "meta", "trainings")


@pytest.fixture
def check(tmp_path, tiny_npz):
    """Runs it where fsg is not installed, nor what a machine with a GPU may lack."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "fsg").symlink_to(ROOT)
    missing = "import sys\nsys.modules.update(dict.fromkeys(('ai_edge_litert', 'tomli_w')))\n"
    (tmp_path / "path" / "sitecustomize.py").write_text(missing)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "path"), "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, "-c", "import tomli_w"], env=environment, capture_output=True).returncode

    def run(*arguments):
        command = [sys.executable, PROGRAM, "--out", tmp_path / "out", "--data", f"npz:{tiny_npz}", *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        path = tmp_path / "out" / "results.jsonl"
        return result, [json.loads(line) for line in path.read_text().splitlines()]

    return run


@pytest.mark.slow
def test_every_step_leaves_results_and_none_fails(check):
    result, found = check("--device", "cpu", "--quick", "--minutes", "20")
    assert result.returncode == 0, result.stdout
    assert not [record for record in found if "failed" in record]
    ends = [record["step"] for record in found if record.get("passed")]
    assert ends == list(STEPS)
    for step in STEPS:
        assert [record for record in found if record["step"] == step and not record.get("passed")], step
    timed = {record["method"] for record in found if "ms_per_step" in record}
    assert timed == {"ste", "fsg:none", "fsg:all", "metaquant"}
    trained = [tuple(record["training"][:3]) for record in found if "training" in record]
    assert set(trained) == {(method, steps, 100) for method in ("ste", "fsg:none", "fsg") for steps in (2, 3)}
    result, again = check("--device", "cpu", "--quick", "--step", "trainings")
    assert result.returncode == 0 and again == found  # nothing is trained twice


def test_a_step_that_fails_costs_the_others_nothing(check):
    result, found = check("--device", "cuda", "--quick", "--data", "npz:none.npz", "--minutes", "0.2")
    assert result.returncode == 1 and "failed: " in result.stdout
    ends = {record["step"]: record for record in found if "step_seconds" in record}
    assert list(ends) == list(STEPS)
    assert all(ends[step]["failed"] for step in ("machine", "meta", "trainings"))
