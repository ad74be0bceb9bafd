"""Where tensors are in the one arena of a C export: what does not live at once shares its room."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fsg.export.formats.c.calls import SIGNS, SLACK, Scratch, Step, Window, tensor_bytes
from fsg.export.formats.tflite.lowered import Tensor

ALIGNMENT = 8
TRIES = 200


@dataclass(eq=False)
class _Room:
    """Of `size` bytes, in use from step `first` to step `last`."""

    size: int
    first: int
    last: int
    at: int = -1

    def meets(self, other: "_Room") -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """The arena's size in bytes, where tensors and scratch are in it, and what is needed at the busiest step."""

    size: int
    at: dict[Tensor | Scratch, int]
    needed: int


def plan(steps: Sequence[Step], same: dict[Tensor, Tensor], outside: set[Tensor]) -> Plan:
    """Places all that the steps read and write but constants and what is `outside`: input and result."""

    def root(tensor: Tensor) -> Tensor:
        return same.get(tensor, tensor)

    rooms: dict[Tensor | Scratch, _Room] = {}
    away = {root(tensor) for tensor in outside}
    for index, step in enumerate(steps):
        for tensor in (*step.reads(), *step.operands(), *step.written()):
            key = root(tensor)
            if key.data is None and key not in away:
                size = tensor_bytes(key) + (SLACK if key.kind == SIGNS else 0)
                rooms.setdefault(key, _Room(size, index, index)).last = index
        for argument in step.arguments:
            if isinstance(argument, Scratch):
                rooms[argument] = _Room(argument.bytes, index, index)
    _share(steps, rooms, root)
    distinct = list(dict.fromkeys(rooms.values()))
    for one in distinct:
        one.size = -(-one.size // ALIGNMENT) * ALIGNMENT
    needed = max(
        (sum(one.size for one in distinct if one.first <= i <= one.last) for i in range(len(steps))), default=0
    )
    return Plan(max(_place(distinct, needed), ALIGNMENT), {key: one.at for key, one in rooms.items()}, needed)


def _share(steps: Sequence[Step], rooms: dict[Tensor | Scratch, _Room], root: Callable[[Tensor], Tensor]) -> None:
    """A step may write over what it reads for the last time, where every pixel is read before it is written."""
    for index, step in enumerate(steps):
        taken: set[_Room] = set()
        for place, post in enumerate(step.posts):
            if post.does != "STORE" or post.tensor is None:
                continue
            target = rooms.get(root(post.tensor))
            if target is None or target.first != index:
                continue
            for source in _overwritable(step, place, post.tensor, root):
                given = rooms.get(root(source))
                if given is None or given in taken or given.last != index or given.first == index:
                    continue
                taken.add(given)
                given.size, given.last = max(given.size, target.size), target.last
                for key, one in list(rooms.items()):
                    if one is target:
                        rooms[key] = given
                break


def _overwritable(step: Step, place: int, target: Tensor, root: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The tensors that a step's store, the post-operation at `place`, may write over."""
    whole = {root(tensor) for tensor in step.reads()}
    found = []
    for before, post in enumerate(step.posts):
        if post.tensor is None or post.writes or root(post.tensor) in whole:
            continue
        later = [i for i, other in enumerate(step.posts) if other.tensor and root(other.tensor) is root(post.tensor)]
        is_each = post.how == "FSG_PER_VALUE" and np.prod(post.tensor.shape) == np.prod(target.shape)
        if is_each and before < place and max(later) < place:
            found.append(post.tensor)
    if step.window is not None and step.kernel != "fsg_binary_convolution" and _trails(step.window):
        operands = {root(tensor) for tensor in step.operands()}
        found += [t for t in step.reads() if t.data is None and root(t) not in operands]
    return found


def _trails(window: Window) -> bool:
    """Whether each pixel is written before the first value that a later pixel reads, both from the same place on."""

    def first(axis: int) -> np.ndarray:
        origin = np.arange(window.out[axis]) * window.stride[axis] - window.before[axis]
        spread = window.dilation[axis]
        return np.where(origin < 0, origin + -(origin // spread) * spread, origin)

    read = (first(0)[:, None] * window.size[1] + first(1)).reshape(-1) * window.channels
    written = np.arange(1, len(read) + 1) * window.outputs
    following = np.minimum.accumulate(read[::-1])[::-1]
    return bool((written[:-1] <= following[1:]).all())


def _place(rooms: list[_Room], needed: int) -> int:
    """Gives every room its place; the arena's size. The largest are placed first, or, where that leaves gaps, those of
    some other order."""
    rng = np.random.default_rng(0)
    orders = [
        sorted(rooms, key=lambda room: (-room.size, room.first)),
        sorted(rooms, key=lambda room: (room.first, -room.size)),
        sorted(rooms, key=lambda room: (room.first - room.last, -room.size)),
    ]
    best: tuple[int, list[int]] | None = None
    for attempt in range(TRIES):
        order = orders[attempt] if attempt < len(orders) else sorted(rooms, key=lambda r: -r.size * rng.uniform(0.5, 2))
        size = _in_order(order)
        if best is None or size < best[0]:
            best = size, [room.at for room in rooms]
        if best[0] <= needed:
            break
    assert best is not None
    for room, at in zip(rooms, best[1], strict=True):
        room.at = at
    return best[0]


def _in_order(rooms: list[_Room]) -> int:
    placed: list[_Room] = []
    size = 0
    for room in rooms:
        at = 0
        for other in sorted((other for other in placed if other.meets(room)), key=lambda one: one.at):
            if at + room.size <= other.at:
                break
            at = max(at, other.at + other.size)
        room.at = at
        placed.append(room)
        size = max(size, at + room.size)
    return size
