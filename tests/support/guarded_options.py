"""Run as a program by test_options.py: reads damaged options that end where the readable memory ends."""

import ctypes
import mmap
import random
import sys

from flatbuffers import flexbuffers

library = ctypes.CDLL(sys.argv[1])
find = library._ZN3fsg7FindIntEPKvmPKcPl
find.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int64)]
libc = ctypes.CDLL(None)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

PAGE = mmap.PAGESIZE
memory = mmap.mmap(-1, 3 * PAGE)  # a forbidden page on either side of a readable one
start = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + PAGE
for page in (start - PAGE, start + PAGE):
    assert libc.mprotect(page, PAGE, 0) == 0


def lookup(options: bytes, key: str) -> int | str | None:
    """The value, None if it is missing, "malformed" if that is what the reader says."""
    results = set()
    for at in (start, start + PAGE - len(options)):  # reads before the first or past the last byte fault
        ctypes.memmove(at, options, len(options))
        value = ctypes.c_int64()
        status = find(at, len(options), key.encode(), ctypes.byref(value))
        results.add((value.value, None, "malformed")[status])
    assert len(results) == 1, results
    return results.pop()


def flexmap(values: dict[str, int | bool], indirect: bool) -> bytes:
    builder = flexbuffers.Builder()
    with builder.Map():
        for key, value in values.items():
            if isinstance(value, bool):
                builder.Bool(key, value)
            elif indirect:
                builder.IndirectInt(key, value)
            else:
                builder.Int(key, value)
    return bytes(builder.Finish())


def main() -> None:
    rng = random.Random(0)
    for trial in range(100):
        names = [f"{'k' * rng.randrange(90)}{i}" for i in range(rng.randrange(1, 12))]
        values = {n: rng.choice([rng.randrange(-(2**b), 2**b) for b in (3, 7, 15, 31, 62)] + [True]) for n in names}
        options = flexmap(values, indirect=trial % 3 == 0)
        assert {n: lookup(options, n) for n in names} == values, values
        assert lookup(options, "absent") is None
        for cut in range(0, len(options)):
            lookup(options[:cut], names[-1])
            lookup(options[cut:], names[0])
        for _ in range(100):
            damaged = bytearray(options)
            for _ in range(rng.randrange(1, 4)):
                damaged[rng.randrange(len(damaged))] = rng.choice([0, 1, 255, rng.randrange(256)])
            lookup(bytes(damaged), names[-1])
        lookup(rng.randbytes(rng.randrange(100)), names[0])
    for _ in range(30_000):  # small numbers look like offsets and sizes: these get deep into the reader
        body = bytes(rng.choice([0, 1, 2, 3, 4, 6, 8, 27, 120]) for _ in range(rng.randrange(4, 28)))
        lookup(body + bytes([9 << 2 | rng.randrange(4), rng.choice([1, 2, 4, 8])]), "x")
    not_a_map = flexbuffers.Dumps([1, 2, 3])
    assert lookup(bytes(not_a_map), "x") == "malformed"
    assert lookup(bytes(flexbuffers.Dumps({"x": "text"})), "x") == "malformed"


if __name__ == "__main__":
    main()
