"""Runs a fuzz target on `runs` inputs: python fuzz.py TARGET RUNS."""

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import sanitized

# A refused allocation is one of the cases to test. Leaks are looked for at the end.
ENVIRONMENT = {
    "ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=256",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
LIMITS = ["-rss_limit_mb=0", "-malloc_limit_mb=0", "-timeout=60", "-max_len=256", "-len_control=0"]


def fuzz(target: str, runs: int, seed: int = 1) -> subprocess.CompletedProcess[str]:
    """Starts from random inputs: from nothing, libFuzzer would take long to find that longer ones do more."""
    rng = random.Random(seed)
    binary, found = sanitized.build(target), sanitized.ROOT / "build" / "fuzz"
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(200):
            (Path(folder) / str(i)).write_bytes(rng.randbytes(rng.randrange(8, 250)))
        command = [binary, folder, f"-runs={runs}", f"-seed={seed}", f"-artifact_prefix={found / target}-", *LIMITS]
        return subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False)


def main() -> None:
    name, runs = sys.argv[1], int(sys.argv[2])
    result = fuzz(name, runs, seed=random.randrange(1, 2**31))
    print("\n".join(result.stderr.splitlines()[-60 if result.returncode else -1 :]))
    sys.exit(result.returncode)


if __name__ == "__main__":
    main()
