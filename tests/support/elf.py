"""Reads of a shared library what decides where it loads."""

import struct
from dataclasses import dataclass
from pathlib import Path

MACHINES = {62: "x86_64", 183: "aarch64"}
DYNAMIC, DYNAMIC_SYMBOLS, VERSIONS_NEEDED = 6, 11, 0x6FFFFFFE  # section types
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
    headers = sections(data)
    count = len(headers)
    needed, versions = set(), set()
    for _, kind, _, _, offset, length, link, info in headers:
        text = headers[link][4] if link < count else 0
        if kind == DYNAMIC:
            entries = struct.iter_unpack("<qQ", data[offset : offset + length])
            needed |= {string(data, text + value) for tag, value in entries if tag == DT_NEEDED}
        if kind == VERSIONS_NEEDED:
            versions |= versions_needed(data, offset, text, info)
    return Library(MACHINES.get(machine, str(machine)), needed, versions)


def sections(data: bytes) -> list[tuple[int, ...]]:
    """The headers of all sections."""
    (table,), (size, count) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<HH", data, 58)
    return [struct.unpack_from("<IIQQQQII", data, table + i * size) for i in range(count)]


def undefined(path: Path) -> set[str]:
    """The names that a library or program wants others to define."""
    data = path.read_bytes()
    headers = sections(data)
    (symbols,) = (header for header in headers if header[1] == DYNAMIC_SYMBOLS)
    offset, length, text = symbols[4], symbols[5], headers[symbols[6]][4]
    entries = struct.iter_unpack("<IBBHQQ", data[offset : offset + length])
    return {string(data, text + name) for name, _, _, section, _, _ in entries if section == 0 and name}


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
