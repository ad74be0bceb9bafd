"""Completion in shells."""

import os
import shutil
import subprocess
import sys

import pytest


@pytest.fixture
def shell_path(tmp_path):
    """A PATH with this installation's fsg."""
    command = tmp_path / "fsg"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m fsg "$@"\n')
    command.chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_names(shell_path):
    def completed(*words):
        program = f'eval "$(fsg completion bash)"; COMP_WORDS=(fsg {" ".join(words)}); COMP_CWORD={len(words)};'
        program += ' _fsg_completion fsg; echo "${COMPREPLY[@]}"'
        child = subprocess.run(
            ["bash", "-c", program], env={**os.environ, "PATH": shell_path}, capture_output=True, text=True, check=True
        )
        return child.stdout.split()

    assert completed("exp") == ["export"]
    assert {"--device", "--devices"} <= set(completed("bench", "--dev"))
    assert completed("bench", "--device", "rpi") == ["rpi3", "rpi4", "rpi5"]
    assert completed("export", "--format", "o") == ["onnx"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_answered(fsg, shell):
    code, out, _ = fsg("completion", shell)
    assert code == 0 and f"_FSG_COMPLETE={shell}_complete" in out
    asked = {"_FSG_COMPLETE": f"{shell}_complete", "COMP_WORDS": "fsg exp"}
    asked["COMP_CWORD"] = "1" if shell == "zsh" else "exp"
    child = subprocess.run(
        [sys.executable, "-m", "fsg"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "export" in child.stdout
