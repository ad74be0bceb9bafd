"""What fsg runs on: versions, processor, native kernels."""

import os
import platform
import resource
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsg
from fsg import FsgError
from fsg.runtime.library import active_kernels
from fsg.runtime.tables import facts

if TYPE_CHECKING:
    from rich.table import Table

PACKAGES = (
    "numpy",
    "ai-edge-litert",
    "torch",
    "torchvision",
    "larq-compute-engine",
    "tensorflow-cpu",
    "tensorflow",
    "onnx",
    "onnxruntime",
)
# What decides which kernels can run, as /proc/cpuinfo spells it on x86-64 and aarch64.
FEATURES = ("popcnt", "avx2", "avx512bw", "avx512_vpopcntdq", "asimd", "asimddp", "asimdhp", "sve")


def environment() -> dict[str, Any]:
    """Versions (None where a package is missing), processor, its features that matter here, active kernels."""
    info = _cpu_info()
    flags = (info.get("flags") or info.get("Features") or "").split()
    try:
        kernels = active_kernels()
    except FsgError as error:
        kernels = str(error)
    return {
        "fsg": fsg.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu_features": [name for name in FEATURES if name in flags],
        "kernels": kernels,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def environment_table(found: dict[str, Any]) -> "Table":
    """Two columns, what and its value."""
    packages = dict(found["packages"])
    # One TensorFlow is enough; its package has two names.
    if packages["tensorflow-cpu"] or packages["tensorflow"]:
        packages = {name: version for name, version in packages.items() if version or "tensorflow" not in name}
    else:
        del packages["tensorflow-cpu"]
    rows = [(name, str(found[name])) for name in ("fsg", "python", "system", "cpu", "cores")]
    rows.append(("cpu features", " ".join(found["cpu_features"]) or "none of note"))
    rows.append(("native kernels", found["kernels"]))
    return facts([*rows, *((name, version or "not installed") for name, version in packages.items())])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor (or board) as the kernel names it."""
    info = _cpu_info()
    return info.get("model name") or info.get("Model") or info.get("Hardware") or platform.machine()


def _cpu_info() -> dict[str, str]:
    """The fields of /proc/cpuinfo, of its last processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def memory_bytes() -> int:
    """How much memory this process may have at most: the machine's, or what a container or ulimit leaves of it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), resource.getrlimit(resource.RLIMIT_AS)[0]]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups, in version 2 and 1
        with suppress(OSError, ValueError):
            limits.append(int(Path("/sys/fs/cgroup", name).read_text(encoding="utf-8")))
    return min(limit for limit in limits if limit > 0)  # RLIM_INFINITY is below


def stay_on(cpus: list[int]) -> None:
    """Keeps this process, and what it starts, on some of the cores."""
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        there = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise FsgError(f"--cpus {','.join(map(str, cpus))}: not all of them are here; there are {there}") from error


def peak_rss() -> int:
    """Peak resident memory of this process in bytes, since it was started."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise FsgError("/proc/self/status has no VmHWM: peak memory can be measured on Linux only")
