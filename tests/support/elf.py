"""Reads of a shared library what decides where it loads."""

import struct
from dataclasses import dataclass
from pathlib import Path

MACHINES = {62: "x86_64", 183: "aarch64"}
DYNAMIC, VERSIONS_NEEDED = 6, 0x6FFFFFFE  # section types
DT_NEEDED = 1


@dataclass(frozen=True)
class Library:
    """Its processor, the libraries it needs and the symbol versions it asks of them, such as "GLIBC_2.17"."""

    machine: str
    needed: set[str]
    versions: set[str]


def read(path: Path) -> Library:
    data = path.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF file"
    (machine,) = struct.unpack_from("<H", data, 18)
    (table,), (size, count) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<HH", data, 58)
    headers = [struct.unpack_from("<IIQQQQII", data, table + i * size) for i in range(count)]
    needed, versions = set(), set()
    for _, kind, _, _, offset, length, link, info in headers:
        text = headers[link][4] if link < count else 0
        if kind == DYNAMIC:
            entries = struct.iter_unpack("<qQ", data[offset : offset + length])
            needed |= {string(data, text + value) for tag, value in entries if tag == DT_NEEDED}
        if kind == VERSIONS_NEEDED:
            versions |= versions_needed(data, offset, text, info)
    return Library(MACHINES.get(machine, str(machine)), needed, versions)


def versions_needed(data: bytes, at: int, text: int, files: int) -> set[str]:
    versions = set()
    for _ in range(files):
        _, count, _, first, following = struct.unpack_from("<HHIII", data, at)
        entry = at + first
        for _ in range(count):
            name, step = struct.unpack_from("<II", data, entry + 8)
            versions.add(string(data, text + name))
            entry += step
        at += following
    return versions


def string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()
