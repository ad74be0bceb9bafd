"""Tables of how fast the binary kernels are.

python tests/benchmarks/kernels.py speed          this machine: GMAC/s of every set of kernels it can run
python tests/benchmarks/kernels.py instructions   aarch64: executed instructions under qemu-aarch64
python tests/benchmarks/kernels.py loops          aarch64: cycles of the inner loops by llvm-mca
"""

import argparse
import subprocess

import native

SHAPES = ["56x56x64:64", "28x28x128:128", "14x14x256:256", "7x7x512:512", "32x32x16:16", "16x16x32:32", "56x56x64:64k1"]
IMAGE = ["56", "56", "64"]  # of packing and pooling
CPUS = ("cortex-a53", "cortex-a72", "neoverse-n1")  # neoverse-n1 stands for the Cortex-A76


def speed(shapes: list[str], threads: int) -> None:
    driver = native.build_driver()
    names = subprocess.run([driver, "names"], check=True, capture_output=True, text=True).stdout.strip().split(", ")

    def seconds(command: str, kernels: str, shape: list[str]) -> float:
        def run(repetitions: int) -> float:
            program = [str(driver), command, kernels, str(threads), str(repetitions), *shape]
            return float(subprocess.run(program, check=True, capture_output=True, text=True).stdout)

        repetitions = max(1, min(10000, int(0.1 / max(run(1), 1e-6))))
        return min(run(repetitions) for _ in range(3)) / repetitions

    print(f"{threads} thread(s); convolutions 3x3 or as marked, with packing their input: binary GMAC/s")
    print(f"{'':16}" + "".join(f"{name:>10}" for name in names))
    for shape in shapes:
        arguments = native.conv_arguments(shape)
        rates = [native.conv_macs(arguments) / seconds("conv", name, arguments) / 1e9 for name in names]
        print(f"{shape:16}" + "".join(f"{rate:10.1f}" for rate in rates))
    print("\nvalues packed or pooled a nanosecond")
    values = int(IMAGE[0]) * int(IMAGE[1]) * int(IMAGE[2])
    for label, command, arguments in [("pack float", "pack", IMAGE), ("max pool 3x3/2", "pool", [*IMAGE, "3", "2"])]:
        rates = [values / seconds(command, name, arguments) / 1e9 for name in names]
        print(f"{label:16}" + "".join(f"{rate:10.2f}" for rate in rates))


def instructions(shapes: list[str]) -> None:
    emulator = native.find_emulator()
    if emulator is None:
        raise SystemExit("qemu-aarch64 is missing: apt-get install qemu-user")
    driver, plugin = native.build_driver(native.BOARD), native.build_plugin()
    print("binary multiply-accumulates per executed instruction, packing the input and writing the output included")
    print(f"{'':16}{'':10}{'float':>10}{'int8':>10}{'packed':>10}")
    for shape in shapes:
        for kernels in native.NEON:
            rates = []
            for output in ("float", "int8", "packed"):
                arguments = native.conv_arguments(shape, output)
                count = native.count_instructions(emulator, plugin, driver, "conv", kernels, *arguments)
                rates.append(native.conv_macs(arguments) / count)
            print(f"{shape:16}{kernels:10}" + "".join(f"{rate:10.2f}" for rate in rates))


def loops() -> None:
    mca = native.find_mca()
    if mca is None:
        raise SystemExit("llvm-mca is missing: apt-get install llvm")
    print("binary multiply-accumulates per cycle of the inner loop, predicted by llvm-mca")
    print(f"{'':10}" + "".join(f"{cpu:>14}" for cpu in CPUS))
    for kernels in native.NEON:
        rates = [native.loop_cycles(mca, kernels, cpu) for cpu in CPUS]
        print(f"{kernels:10}" + "".join(f"{rate:14.1f}" for rate in rates))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["speed", "instructions", "loops"])
    parser.add_argument("--threads", type=int, default=1, help="of the table speed")
    parser.add_argument("shapes", nargs="*", help="of the convolutions, such as 28x28x128:128k3s2")
    options = parser.parse_args()
    shapes = options.shapes or SHAPES
    if options.table == "speed":
        speed(shapes, options.threads)
    elif options.table == "instructions":
        instructions(shapes)
    else:
        loops()


if __name__ == "__main__":
    main()
