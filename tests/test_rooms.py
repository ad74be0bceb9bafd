"""The imports of the code are those that docs/architecture.md allows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("commands", "training", "export", "runtime")
FILES = sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])
MODULES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in FILES if path.name not in ("setup.py",)}


def table():
    """room -> (patterns of its modules, rooms that it may import), as the document has them."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    _, _, rows = text.partition("| room | its modules | may import |\n|---|---|---|\n")
    found = {}
    for row in rows.split("\n\n")[0].strip().splitlines():
        room, patterns, allowed = (cell.strip() for cell in row.strip("|").split("|"))
        found[room] = (re.findall(r"`([^`]+)`", patterns), set(filter(None, allowed.split(", "))))
    return found


TABLE = table()


def room_of(module: str) -> str:
    """The room whose pattern fits a module best: its own name, or else the longest folder."""
    fitting = [
        (pattern, room)
        for room, (patterns, _) in TABLE.items()
        for pattern in patterns
        if module == pattern or (pattern.endswith("/") and module.startswith(pattern))
    ]
    assert fitting, f"{module} is in no room of docs/architecture.md"
    return max(fitting, key=lambda pair: (pair[0] == module, len(pair[0])))[1]


def imported(path: Path) -> Iterator[str]:
    """The modules of fsg that a file imports anywhere in it, but for type annotations."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (module(alias.name) for alias in node.names if alias.name.split(".")[0] == "fsg")
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fsg":
            for alias in node.names:
                inner = module(f"{node.module}.{alias.name}", missing_ok=True)
                yield inner or module(node.module)


def module(name: str, *, missing_ok: bool = False) -> str:
    """The key in MODULES of a dotted name; "" for one that is no module."""
    path = name.removeprefix("fsg").lstrip(".").replace(".", "/")
    for key in (path, f"{path}/__init__".lstrip("/")):
        if key in MODULES:
            return key
    assert missing_ok, f"there is no module {name}"
    return ""


ARROWS = {name: set(imported(path)) - {name} for name, path in MODULES.items()}


@pytest.mark.parametrize("room", TABLE)
def test_imports_are_allowed(room):
    _, allowed = TABLE[room]
    assert allowed <= TABLE.keys()
    wrong = [
        f"{name} -> {other}"
        for name, others in ARROWS.items()
        for other in others
        if room_of(name) == room and room_of(other) not in {room, *allowed}
    ]
    assert not wrong, f"room {room} may import {', '.join(sorted(allowed))}, not {wrong}"


def test_every_room_is_used_and_no_allowance_is_idle():
    drawn = {(room_of(name), room_of(other)) for name, others in ARROWS.items() for other in others}
    idle = [
        (room, other)
        for room, (_, allowed) in TABLE.items()
        for other in allowed
        if (room, other) not in drawn and other != "fsg"
    ]
    assert not idle, f"docs/architecture.md allows what nobody needs: {idle}"


def test_no_modules_import_each_other_in_a_circle():
    done: set[str] = set()

    def visit(name, above):
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in ARROWS[name]:
                visit(other, [*above, name])
            done.add(name)

    for name in MODULES:
        visit(name, [])


def test_rules_that_the_registry_names_exist():
    from fsg.training.registry import METHODS

    for method in METHODS.values():
        name, _, cls = method.rule.partition(":")
        assert re.search(rf"^(class|def) {cls}\b", MODULES[module(name)].read_text(), re.MULTILINE)


def test_no_file_is_too_long_and_every_folder_says_what_it_is_for():
    long = {name: count for name, path in MODULES.items() if (count := len(path.read_text().splitlines())) > 450}
    assert not long
    native = [path for room in ROOMS for suffix in ("*.cc", "*.h", "*.c") for path in (ROOT / room).rglob(suffix)]
    assert not {path.name: path for path in native if len(path.read_text().splitlines()) > 450}
    for name, path in MODULES.items():
        if name.endswith("/__init__"):
            documented = ast.get_docstring(ast.parse(path.read_text()))
            assert documented and len(documented.splitlines()) == 2, name
    folders = {path.parent for path in MODULES.values() if path.parent != ROOT}
    assert all((folder / "__init__.py").exists() for folder in folders)
