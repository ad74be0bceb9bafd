"""The kernels without an interpreter: those of this machine, and the NEON ones under qemu-aarch64."""

import subprocess

import native
import pytest

from fsg.runtime.library import possible_kernels

pytestmark = pytest.mark.slow  # each driver takes the compiler some seconds

emulated = pytest.mark.skipif(
    native.find_emulator() is None,
    reason="needs qemu-aarch64 and its C library: apt-get install qemu-user libstdc++6-arm64-cross",
)


@pytest.fixture(scope="module")
def host_driver():
    return [str(native.build_driver())]


@pytest.fixture(scope="module")
def arm_driver():
    return [str(native.find_emulator()), str(native.build_driver(native.BOARD))]


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kernels", possible_kernels()[:-1])
def test_every_kernel_agrees_with_its_scalar_twin(host_driver, kernels):
    child = run(*host_driver, "check", kernels, "1", "2000")
    assert child.returncode == 0 and "2000 shapes, 0 wrong" in child.stdout, child.stdout + child.stderr


@emulated
@pytest.mark.parametrize("kernels", native.NEON)
def test_every_neon_kernel_agrees_with_its_scalar_twin(arm_driver, kernels):
    emulator, program = arm_driver
    for cpu, seed in (("cortex-a72", "1"), ("cortex-a76", "251")):  # without and with dot products of bytes
        child = run(emulator, "-cpu", cpu, program, "check", kernels, seed, "250")
        assert child.returncode == 0 and "250 shapes, 0 wrong" in child.stdout, child.stdout + child.stderr


@emulated
@pytest.mark.parametrize(
    ("cpu", "expected"), [("cortex-a53", "neon-a53"), ("cortex-a72", "neon-a72"), ("cortex-a76", "neon-a72")]
)
def test_the_processor_selects_its_kernels(arm_driver, cpu, expected):
    emulator, program = arm_driver
    names = run(emulator, "-cpu", cpu, program, "names").stdout.strip().split(", ")
    assert names[0] == expected and set(names) == {*native.NEON, "scalar"}
    assert run(emulator, "-cpu", cpu, program, "check", "neon", "1", "2").stdout.startswith(f"{expected}: 2 shapes")


@emulated
@pytest.mark.parametrize("kernels", native.NEON)
@pytest.mark.parametrize("shape", ["56x56x64:64", "28x28x64:64", "14x14x128:128", "7x7x256:256", "28x28x64:128s2"])
def test_a_whole_convolution_makes_28_products_an_instruction(arm_driver, kernels, shape):
    emulator, program = arm_driver
    arguments = native.conv_arguments(shape)
    plugin = native.build_plugin()
    count = native.count_instructions(emulator, plugin, program, "conv", kernels, *arguments)
    assert native.conv_macs(arguments) / count >= 28


@emulated
@pytest.mark.parametrize("output", ["int8", "packed"])
def test_other_outputs_take_no_more_instructions(arm_driver, output):
    emulator, program = arm_driver
    arguments = native.conv_arguments("28x28x128:128", output)
    plugin = native.build_plugin()
    count = native.count_instructions(emulator, plugin, program, "conv", "neon-a53", *arguments)
    assert native.conv_macs(arguments) / count >= 32


@pytest.mark.skipif(native.find_mca() is None, reason="needs llvm-mca: apt-get install llvm")
@pytest.mark.parametrize(
    ("kernels", "cpu", "least"),
    [("neon-a53", "cortex-a53", 34), ("neon-a72", "cortex-a72", 84), ("neon-a72", "neoverse-n1", 84)],
)
def test_inner_loops_keep_the_processor_busy(kernels, cpu, least):
    assert native.loop_cycles(native.find_mca(), kernels, cpu) >= least
