"""BinaryGraph -> model.c and model.h: C99 without a library, what is computed as a list of calls."""

import json
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fsg
from fsg.export import graph as g
from fsg.export.formats.c.calls import Bits, Offset, Post, Scratch, Step, Window, number
from fsg.export.formats.c.plan import Plan, plan
from fsg.export.formats.c.prepare import dequantized, orders
from fsg.export.formats.c.steps import steps_of
from fsg.export.formats.tflite.direct import lower
from fsg.export.formats.tflite.lowered import Program, Tensor
from fsg.runtime.model.c import METADATA

SOURCES = {
    "fsg_elementwise": ("elementwise",),
    "fsg_binary_convolution": ("taps", "binary"),
    "fsg_convolution": ("taps", "convolution"),
    "fsg_depthwise": ("taps", "depthwise"),
    "fsg_pool": ("taps", "pool"),
    "fsg_binary_pool": ("taps", "binary_pool"),
    "fsg_copy": ("copy",),
    "fsg_fill": ("fill",),
    "fsg_take": ("take",),
    "fsg_broadcast": ("broadcast",),
    "fsg_reduce": ("reduce",),
    "fsg_softmax": ("softmax",),
    "fsg_resize": ("resize",),
    "fsg_matmul": ("matmul",),
    "fsg_transposed": ("transposed",),
}
"""The files of kernels/ that have each function."""
WITH_LIBM = {
    *("ELU", "LOGISTIC", "TANH", "GELU", "GELU_TANH", "EXP", "LOG", "SQRT", "ROUND", "FLOOR", "CEIL"),
    "fsg_softmax",
}
A_LINE = 12
OF_NUMBERS = (
    "/* `in` is an image [height][width][channels] of FSG_INPUTS numbers, each as it was in training: a",
    " * value from 0 to 1, less fsg_mean of its channel, divided by fsg_std. `out` gets FSG_OUTPUTS scores.",
    " * Returns 0. Not for two threads at once. */",
)
OF_PIXELS = (
    "/* `in` is an image [height][width][channels] of FSG_INPUTS pixels from 0 to 255. `out` gets FSG_OUTPUTS",
    " * scores. Returns 0. Not for two threads at once. */",
)


def to_c(graph: g.BinaryGraph, metadata: dict[str, Any]) -> tuple[str, str]:
    """model.c and model.h of a graph: `fsg_invoke` takes an image [H, W, C] and gives the result.

    Of a graph of `passes.on_pixels` the image is of bytes. Errors: FsgError for what C has no function for here.
    """
    whole = dequantized(lower(graph))
    return _Writer(whole.source, whole.result, *planned(whole), metadata).texts()


def planned(whole: Program) -> tuple[list[Step], dict[Tensor, Tensor], Plan]:
    """The calls of a program in the order that needs the least memory, which tensors are others in another shape, and
    where all are."""
    found = []
    for program in orders(whole):
        steps, same, _ = steps_of(program)
        found.append((steps, same, plan(steps, same, {program.source, program.result})))
    return min(found, key=lambda one: one[2].size)


def to_watched_c(graph: g.BinaryGraph) -> tuple[str, str, list[tuple[str, Tensor]]]:
    """As `to_c`, but every value that the file written directly names is stored and shown: `fsg_watch` is called with
    its number in the list, and where it is."""
    whole = dequantized(lower(graph))
    steps, same, names = steps_of(whole, watched=True)
    writer = _Writer(whole.source, whole.result, steps, same, plan(steps, same, {whole.source, whole.result}), {})
    writer.names = names
    return *writer.texts(), writer.seen


class _Writer:
    def __init__(
        self,
        source: Tensor,
        result: Tensor,
        steps: list[Step],
        same: dict[Tensor, Tensor],
        placed: Plan,
        metadata: dict[str, Any],
    ) -> None:
        self.source, self.result, self.steps = source, result, steps
        self.same, self.placed, self.metadata = same, placed, metadata
        self.constants: dict[tuple[str, bytes], str] = {}
        self.windows: dict[str, str] = {}
        self.data: list[str] = []
        self.names: dict[Tensor, str] = {}  # of what is shown to fsg_watch
        self.seen: list[tuple[str, Tensor]] = []
        self.size = 0  # of the constants, in bytes

    @property
    def takes_pixels(self) -> bool:
        return self.source.kind == np.uint8

    @property
    def number(self) -> str:
        """The type of an image's numbers."""
        return "unsigned char" if self.takes_pixels else "float"

    def texts(self) -> tuple[str, str]:
        calls = []
        for index, step in enumerate(self.steps):
            calls += [self.call(index, step), *self.shown(step)]
        if "fsg_arena" not in "".join([*self.data, *calls]):
            calls.append("(void)fsg_arena;")
        kernels = [_kernel(name) for name in self.sources()]
        math = any(step.kernel in WITH_LIBM or any(p.does in WITH_LIBM for p in step.posts) for step in self.steps)
        watch = ["void (*fsg_watch)(int32_t, const void *);", ""] if self.names else []
        body = "\n".join([*self.data, "", *watch, *_body(self.number, calls)])
        includes = "#include <stdint.h>\n#include <string.h>\n"
        if math or "HUGE_VALF" in body:
            includes += "#include <math.h>\n"
        if any(step.kernel == "fsg_reduce" for step in self.steps):
            includes += "#include <float.h>\n"
        if any(post.does == "PACK" for step in self.steps for post in step.posts):
            includes += "#if defined(__ARM_NEON)\n#include <arm_neon.h>\n"
            includes += "#elif defined(__SSE2__)\n#include <emmintrin.h>\n#endif\n"
        source = "\n".join(
            [
                f"/* A binary network, written by fsg {fsg.__version__}; see model.h. */",
                f"/* {METADATA}{_commented(self.metadata)} */",
                '#include "model.h"',
                f"#if {' || '.join(f'{name} != {value}' for name, value in self.numbers().items())}",
                '#error "model.h is of another network"',
                "#endif",
                "",
                includes,
                *self.defines(),
                "",
                f"typedef {self.number} fsg_number;",
                "",
                *kernels,
                self.about(),
                body,
            ]
        )
        return source, self.header()

    def sources(self) -> list[str]:
        needed = dict.fromkeys(name for step in self.steps for name in SOURCES[step.kernel])
        first = ["base"]
        if any(step.posts for step in self.steps):
            first.append("sweep")
        return [*first, *needed]

    def defines(self) -> list[str]:
        """What the network needs of sweep.c, and which of the others' parts."""
        does = dict.fromkeys(self.does(post) for step in self.steps for post in step.posts)
        more = dict.fromkeys(name for step in self.steps for name in step.defines)
        if any(self.how(post) == "FSG_OF_INPUT" for step in self.steps for post in step.posts):
            more["READS_INPUT"] = None
        if any(max(_sizes(step.window)[2:]) >= 1 << 15 for step in self.steps if step.window):
            more["WIDE"] = None
        return [f"#define FSG_{name} {i}" for i, name in enumerate((*does, *more))]

    def does(self, post: Post) -> str:
        is_output = post.tensor is not None and post.writes and self.root(post.tensor) is self.root(self.result)
        return "OUTPUT" if is_output else post.does

    def how(self, post: Post) -> str:
        is_input = post.tensor is not None and self.root(post.tensor) is self.source
        return "FSG_OF_INPUT" if is_input and post.how == "FSG_PER_VALUE" else post.how

    def root(self, tensor: Tensor) -> Tensor:
        return self.same.get(tensor, tensor)

    def call(self, index: int, step: Step) -> str:
        arguments: list[str] = []
        for argument in step.arguments:
            if isinstance(argument, Offset):
                if argument.count:
                    arguments[-1] += f" + {argument.count}"
            else:
                arguments.append(self.argument(index, argument))
        if step.posts:
            posts = ",\n    ".join(self.post(post) for post in step.posts)
            self.data.append(f"static const fsg_post posts{index}[] = {{\n    {posts},\n}};")
            arguments += [f"posts{index}", str(len(step.posts))]
        return f"{step.kernel}({', '.join(arguments)});"

    def shown(self, step: Step) -> list[str]:
        calls = []
        for tensor in step.written():
            alike = [tensor, *(other for other, root in self.same.items() if root is self.root(tensor))]
            for one in dict.fromkeys(alike):
                if one in self.names:
                    calls.append(f"fsg_watch({len(self.seen)}, {self.pointer(one)});")
                    self.seen.append((self.names[one], one))
        return calls

    def argument(self, index: int, argument: Any) -> str:
        if isinstance(argument, str):
            return argument
        if isinstance(argument, Window):
            numbers = ", ".join(map(str, _sizes(argument)))
            if numbers not in self.windows:
                self.windows[numbers] = f"window{len(self.windows)}"
                self.data.append(f"static const fsg_window {self.windows[numbers]} = {{{numbers}}};")
            return f"&{self.windows[numbers]}"
        if isinstance(argument, np.ndarray):
            return self.constant(argument)
        if isinstance(argument, Bits):
            return f"(unsigned char *)({self.pointer(argument.tensor)})"
        if isinstance(argument, Scratch):
            place = f"fsg_arena + {self.placed.at[argument] // 4}"
            return place if argument.kind == "float" else f"({argument.kind} *)({place})"
        return self.pointer(argument)

    def pointer(self, tensor: Tensor) -> str:
        root = self.root(tensor)
        if root.data is not None:
            return self.constant(root.data)
        if root is self.source:
            return "fsg_input"
        if root is self.root(self.result):
            return "fsg_output"
        return f"fsg_arena + {self.placed.at[root] // 4}"

    def post(self, post: Post) -> str:
        does, how = f"FSG_{self.does(post)}", self.how(post)
        if post.tensor is None or does == "FSG_OUTPUT" or how == "FSG_OF_INPUT":
            return f"{{{does}, {how}, {{NULL}}}}"
        field = "to" if post.writes else "from"
        return f"{{{does}, {how}, {{.{field} = {self.pointer(post.tensor)}}}}}"

    def constant(self, values: NDArray[Any]) -> str:
        """The name of an array; equal ones are one."""
        kind, write = _KINDS[values.dtype.str[1:]]
        values = np.ascontiguousarray(values).reshape(-1)
        key = (kind, values.tobytes())
        if key not in self.constants:
            name = self.constants[key] = f"{kind.split('_')[0].rstrip('83264')}s{len(self.constants)}"
            self.size += values.nbytes
            words = list(map(write, values.tolist()))
            lines = [", ".join(words[i : i + A_LINE]) for i in range(0, len(words), A_LINE)]
            self.data.append(f"static const {kind} {name}[] = {{\n    " + ",\n    ".join(lines) + "};")
        return self.constants[key]

    def numbers(self) -> dict[str, int]:
        """Those of the header."""
        _, height, width, channels = self.source.shape
        return {
            "FSG_HEIGHT": height,
            "FSG_WIDTH": width,
            "FSG_CHANNELS": channels,
            "FSG_INPUTS": height * width * channels,
            "FSG_OUTPUTS": int(np.prod(self.result.shape)),
            "FSG_CONSTANT_BYTES": self.size,
            "FSG_ARENA_BYTES": self.placed.size,
            **({"FSG_PIXELS": 1} if self.takes_pixels else {}),
        }

    def header(self) -> str:
        remarks = {
            "FSG_OUTPUTS": f" /* {' x '.join(map(str, self.result.shape[1:]))} */",
            "FSG_CONSTANT_BYTES": " /* of flash, beside the code */",
            "FSG_ARENA_BYTES": " /* of RAM, beside the input and the output */",
        }
        lines = [
            f"/* A binary network, written by fsg {fsg.__version__}. */",
            "#ifndef FSG_MODEL_H_",
            "#define FSG_MODEL_H_",
            "",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            "",
            *(f"#define {name} {value}{remarks.get(name, '')}" for name, value in self.numbers().items()),
            "",
            *(OF_PIXELS if self.takes_pixels else OF_NUMBERS),
            f"int fsg_invoke(const {self.number} *in, float *out);",
            "",
        ]
        if self.statistics() is not None:
            lines += ["extern const float fsg_mean[FSG_CHANNELS], fsg_std[FSG_CHANNELS];"]
        if self.classes() is not None:
            lines += ["extern const char *const fsg_classes[FSG_OUTPUTS];"]
        return "\n".join([*lines, "", "#ifdef __cplusplus", "}", "#endif", "", "#endif", ""])

    def about(self) -> str:
        """Constants that are no part of the computation."""
        lines = []
        statistics, classes = self.statistics(), self.classes()
        if statistics is not None:
            for name, values in zip(("mean", "std"), statistics, strict=True):
                numbers = ", ".join(number(value) for value in values)
                lines.append(f"const float fsg_{name}[FSG_CHANNELS] = {{{numbers}}};")
        if classes is not None:
            lines.append(f"const char *const fsg_classes[FSG_OUTPUTS] = {{{', '.join(map(_text, classes))}}};")
        return "\n".join([*lines, ""])

    def statistics(self) -> tuple[list[float], list[float]] | None:
        if self.takes_pixels:
            return None
        found = [self.metadata.get(name) for name in ("mean", "std")]
        channels = self.source.shape[3]
        if all(isinstance(values, (list, tuple)) and len(values) == channels for values in found):
            return [float(v) for v in found[0]], [float(v) for v in found[1]]  # type: ignore[union-attr]
        return None

    def classes(self) -> list[str] | None:
        names = self.metadata.get("class_names")
        fits = isinstance(names, (list, tuple)) and len(names) == int(np.prod(self.result.shape))
        return [str(name) for name in names] if fits else None  # type: ignore[union-attr]


_KINDS: dict[str, Any] = {
    "f4": ("float", number),
    "i1": ("int8_t", str),
    "i4": ("int32_t", str),
    "u4": ("uint32_t", "0x%xu".__mod__),
}


def _sizes(w: Window) -> list[int]:
    """As base.c has them: two of channels, and those of images."""
    sizes = (w.channels, w.outputs, *w.size, *w.out, *w.kernel, *w.stride, *w.dilation, *w.before)
    return [int(n) for n in sizes]


def _kernel(name: str) -> str:
    return files("fsg.export.formats.c").joinpath("kernels", f"{name}.c").read_text(encoding="utf-8")


def _body(number: str, calls: list[str]) -> list[str]:
    return [
        f"int fsg_invoke(const {number} *in, float *out) {{",
        "    fsg_input = in;",
        "    fsg_output = out;",
        *(f"    {call}" for call in calls),
        "    return 0;",
        "}",
        "",
    ]


def _commented(metadata: dict[str, Any]) -> str:
    """JSON that ends no comment and begins none."""
    return json.dumps(metadata).replace("/", "\\/")


def _text(name: str) -> str:
    """A string of C; other characters than ASCII's are UTF-8."""
    safe = [
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in name.encode("utf-8")
    ]
    return f'"{"".join(safe)}"'
