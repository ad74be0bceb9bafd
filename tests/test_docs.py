"""Every command and every program that README.md, docs/ and examples/ show is right, and works where it can run here.

Blocks of ```sh are commands; ```python blocks are programs that run as they stand. A page's blocks
run in order, in a folder with a trained run runs/demo and its exports, pictures and data. Trainings are cut short by
options behind them; what needs a board, a GPU, another program or much time is parsed instead of run.
"""

import ast
import io
import itertools
import re
import shutil
import sys
import tomllib
import traceback
import types
from collections import Counter, OrderedDict
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import click
import numpy as np
import pytest

from fsg import FsgError, cli

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/training/data")]
from dataset_files import make_cifar10, make_fashion, pictures, python2_pickle  # noqa: E402
from pages import alternatives, shown, words  # noqa: E402

PATTERNS = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "examples/*/README.md")
PAGES = sorted(str(path.relative_to(ROOT)) for pattern in PATTERNS for path in ROOT.glob(pattern))
NAMES = {
    "RUN": "runs/demo",
    "RUN|FILE": "runs/demo",
    "FILE": "runs/demo/export/model.tflite",
    "MODEL": "resnet20",
    "FILE.csv": "confusion.csv",
    "DATA": "digits",
    "DATASET": "digits",
    "IMAGE": "three.png",
    "EPOCHS": "1",
    "N": "1",
    "ISA": "scalar",
    "NAME": "demo",
    "METHOD": "ste",
    "VALUE": "1",
    "PATH": "data",
}
"""What stands for the words in capitals."""
SHORT = {
    "train": ["--epochs", "1", "--train-images", "20", "--threads", "1"],
    "meta-train": ["--generations", "1", "--pairs", "1", "--checks", "2", "--steps", "2", "--jobs", "1"],
    "bench": ["--runs", "3"],
    "export": [],
}
"""Options that cut a command short; the last of a repeated option counts."""
PARSED = {
    "bench-train": "starts a process for each method",
    "compare": "starts a process for each training; tests/test_cli_compare.py does",
    "--host": "needs a board",
    "--device": "needs an emulator; tests/test_examples.py runs it",
    "--baseline": "needs TensorFlow",
    "--compile": "needs minutes",
    "torchvision:": "needs minutes",
    "torchrun": "is for several processes",
}
"""Commands of fsg that are parsed but not run, and why."""
OTHERS = {
    "make": "builds",
    "pip": "installs",
    "git": "fetches",
    "scp": "needs a board",
    "ssh": "needs a board",
    "adb": "needs a phone",
    "python": "is a program of its own",
    "sh": "tests/test_examples.py runs it",
    "apt-get": "installs",
    "arm-none-eabi-gcc": "tests/export/test_c_on_a_microcontroller.py runs it",
    "qemu-system-arm": "tests/export/test_c_on_a_microcontroller.py runs it",
}
"""Other programs, and why they are not run; `check_other` looks at what they are given."""
FOREIGN = {"--nproc-per-node"}
"""Options within sentences that are not fsg's."""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The folder that pages expect, and beside it a cache with tiny data sets."""
    from PIL import Image

    from fsg.training.data.load import load_dataset

    root = tmp_path_factory.mktemp("docs")
    folder, cache = root / "page", root / "cache"
    folder.mkdir()
    data = load_dataset("digits")
    pixels = data.x_test.transpose(0, 2, 3, 1)
    for number, name in enumerate(["three.png", "photos/a.png", "photos/b.png", "photos/more/c.png"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[np.flatnonzero(data.y_test == 3)[number]]).save(folder / name)
    for kind, number in itertools.product(("cat", "dog"), range(18)):
        image = Image.fromarray(pixels[np.flatnonzero(data.y_test == 4 + (kind == "dog"))[number]])
        for part in ("pets", "my/photos", f"data/{'test' if number % 3 == 0 else 'train'}"):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
            image.save(folder / part / kind / f"{number}.png")
    devices = root / "home/.config/fsg/devices.toml"
    devices.parent.mkdir(parents=True)
    devices.write_text('[my-board]\nlabel = "My board"\ncore = "cortex-a55"\n')
    arrays = {"x_train": data.x_train[::20], "y_train": data.y_train[::20], "x_test": data.x_test[::10]}
    np.savez(folder / "data.npz", **arrays, y_test=data.y_test[::10])
    shutil.copy(ROOT / "examples/own_network/mynet.py", folder)
    (folder / "my.toml").write_text('epochs = 1\ndataset = "digits"\n')
    make_cifar10(cache / "cifar-10-batches-py")
    make_cifar100(cache / "cifar-100-python")
    make_fashion(cache / "FashionMNIST/raw", zipped=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, place in (("HOME", root / "home"), ("FSG_DATA", cache)):
            patch.setenv(name, str(place))
        for command in (
            "train --model resnet8 --dataset digits --epochs 2 --train-images 320 --threads 1 --out runs/demo",
            "export runs/demo --format tflite --format onnx --format packed --format c --writer direct",
        ):
            code, text = run(command.split())
            assert code == 0, text
    shutil.copy(folder / "runs/demo/checkpoint.pt", folder / "WEIGHTS.pth")
    for name in ("model.tflite", "model.fsg"):
        shutil.copy(folder / "runs/demo/export" / name, folder)
    return root


def make_cifar100(folder):
    """A CIFAR-100 of 40 training and 20 test images."""
    folder.mkdir()
    for name, count in (("train", 40), ("test", 20)):
        content = {"fine_labels": list(range(count)), "data": pictures(count, 3072)}
        (folder / name).write_bytes(python2_pickle(content))
    (folder / "meta").write_bytes(python2_pickle({"fine_label_names": [f"class {n}" for n in range(100)]}))


def run(arguments):
    """Runs a command in this process; its exit code, and all that it prints."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(out):
        patch.setattr(sys, "argv", ["fsg", *arguments])
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code or 0, out.getvalue()
    raise AssertionError("unreachable")


def parse(arguments, *, partly=False):
    """The name of a command and its context, of all of its options; click.UsageError, FsgError where one is wrong."""
    name, *rest = arguments
    if name in ("--help", "-h", "--version") or "--help" in rest:
        return name, None
    command = cli.cli.get_command(click.Context(cli.cli), name)
    if command is None:
        raise click.UsageError(f"fsg has no command {name}")
    try:
        context = command.make_context(name, rest)
    except (click.MissingParameter, click.BadOptionUsage):
        if not partly:
            raise
        return name, None
    if name == "train" and not partly:
        from fsg.training.options import given_settings

        given_settings(context)
    elif name in ("bench-train", "compare"):
        from fsg.training.options import sweep_entries

        sweep_entries(context)
    return name, context


def substituted(word, before=""):
    """A word of a command with real things in place of names in capitals, and of files that nobody has."""
    if (before, word) == ("--method", "NAME"):
        return NAMES["METHOD"]
    if word in NAMES:
        return NAMES[word]
    word = re.sub(r"\bnpz:[\w./-]+", "npz:data.npz", word)
    word = re.sub(r"\bfolder:(PATH|DATA)\b", "folder:data", word)
    word = re.sub(r"[\w./-]+\.pth\b", "WEIGHTS.pth", word)
    return re.sub(r"\bruns/NAME\b", "runs/demo", word)


def given(item):
    """The commands in what a page shows, as lists of words; a usage has several."""
    for part in words(item.text):
        while part and re.fullmatch(r"[A-Z_]+=\S*", part[0]):
            part = part[1:]
        usage = any(re.search(r"^\[|\||^\.\.\.$", word) for word in part)
        for version in alternatives(part) if usage else filter(None, [part]):
            yield [version[0], *map(substituted, version[1:], version)], usage


def why_parsed(arguments):
    """Why a command of fsg is parsed but not run; "" for one that is run."""
    if arguments[:2] == ["fsg", "compare"] and not any(word.startswith("-") for word in arguments):
        return ""  # of runs that are there
    for sign, why in PARSED.items():
        if any(word == sign or (sign[-1] == ":" and word.startswith(sign)) for word in arguments):
            return why
    return ""


def fsg_of(arguments):
    """What `fsg` is given in a command; None for a command of another program."""
    if arguments[0] == "fsg":
        return arguments[1:]
    if arguments[0] in ("torchrun", "python") and arguments[1:] and "fsg" in arguments:
        return arguments[arguments.index("fsg") + 1 :]
    return None


def check_other(arguments):
    """Looks at what another program than fsg is given: targets, extras, files."""
    program, *rest = arguments
    assert program in OTHERS, f"{program} is no program that this test knows: add it to OTHERS, or make it ```text"
    if program == "make":
        targets = re.findall(r"^([\w/-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for word in rest:
            assert "=" in word or word in targets, f"the Makefile has no target {word}"
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for names in re.findall(r"(?:fsg|\.|\.whl)\[([\w,-]+)\]", " ".join(rest)):
            for name in names.split(","):
                assert name in extras, f"pyproject.toml has no extra {name}"
    elif program in ("python", "sh") and rest and not rest[0].startswith("-"):
        known = [ROOT / rest[0], *ROOT.glob(f"examples/*/{rest[0]}")]
        assert any(path.is_file() for path in known), f"there is no file {rest[0]}"


def check_span(item):
    """Parses a command that a sentence names, and looks for the options that it names."""
    if item.text.startswith("fsg ") and not re.search(r"\[\w+\]|[(/]", item.text.removeprefix("fsg ").split()[0]):
        for arguments, _ in given(item):
            if arguments[0] == "fsg":
                parse(arguments[1:], partly=True)
    elif re.match(r"--[a-z]|-[a-z]\b", item.text):
        option = re.split(r"[ =/|]", item.text)[0]
        commands = cli.cli.commands.values()
        known = {name for command in commands for p in command.params for name in (*p.opts, *p.secondary_opts)}
        assert option in known | FOREIGN | {"--help", "--debug"}, f"no command of fsg has the option {option}"


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_is_right(page, monkeypatch):
    """Options, choices, targets and files exist, whether the commands are run below or not."""
    monkeypatch.chdir(ROOT)
    wrong = []
    for item in shown(ROOT / page, page):
        try:
            if item.kind == "span":
                check_span(item)
            elif item.kind == "python":
                compile(item.text, page, "exec")
            else:
                for arguments, _ in given(item):
                    ours = fsg_of(arguments)
                    if ours is None:
                        check_other(arguments)
                    elif "--config" not in ours:
                        parse(ours)
        except (click.ClickException, FsgError, AssertionError, SyntaxError) as error:
            wrong.append(f"{item}\n  {error.format_message() if isinstance(error, click.ClickException) else error}")
    assert not wrong, "\n".join(wrong)


def shortened(arguments):
    """A command of fsg that takes seconds."""
    name, *rest = arguments
    if name == "train" and "--resume" in rest:
        return [*arguments, "--epochs", "3", "--threads", "1"]
    more = [*SHORT.get(name, [])]
    if name == "train" and not any(before == "--model" and ":" in word for before, word in pairs(rest)):
        more += ["--model", "resnet8"]
    if name == "export" and "--writer" not in rest and ("tflite" in rest or "--format" not in rest):
        more += ["--writer", "direct"]
    return [*arguments, *more]


def pairs(arguments):
    return list(itertools.pairwise(["", *arguments]))


def run_command(arguments, ran):
    """Runs a command of fsg, cut short; what it did if it failed, "" if it worked, now or on an earlier page."""
    arguments, stdin = list(arguments), b""
    for sign in ("<", ">"):
        if sign in arguments:
            place = arguments.index(sign)
            if sign == "<":
                stdin = Path(arguments[place + 1]).read_bytes()
            del arguments[place : place + 2]
    arguments = shortened(arguments)
    if arguments[0] == "compare":
        for seed, place in enumerate(arguments[1:], start=1):
            if place.startswith("runs/") and not Path(place).exists():
                config = Path(shutil.copytree("runs/demo", place), "config.toml")
                config.write_text(re.sub(r"(?m)^seed = .*", f"seed = {seed}", config.read_text()))
    key = (*arguments, stdin)
    if key in ran and "runs/demo" in arguments:
        return ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(stdin), isatty=lambda: False))
        code, text = run(arguments)
    if code:
        return f"fsg {' '.join(arguments)} ended with {code}:\n{text}"
    ran.add(key)
    return ""


def run_program(text):
    """Runs a program of a page; what it raised, or ""."""
    names = {"__name__": "__main__"}
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)]
    read, made = ({node.id for node in found if isinstance(node.ctx, how)} for how in (ast.Load, ast.Store))
    names |= {name: value for name, value in of_the_reader().items() if name in read - made}
    try:
        with redirect_stdout(io.StringIO()):
            exec(compile(text, "page", "exec"), names)
    except Exception:
        return traceback.format_exc()
    return ""


def of_the_reader():
    """What a program on a page may take for granted: a network of one's own, and images [N, 3, 32, 32] for it."""
    from torch import nn

    def conv(inputs):
        return nn.Conv2d(inputs, 8, 3, padding=1)

    features = nn.Sequential(conv(3), nn.ReLU(), conv(8), conv(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(OrderedDict(features=features, fc=nn.Linear(8, 10)))
    return {"model": model.eval(), "images": np.random.default_rng(0).standard_normal((8, 3, 32, 32), np.float32)}


@pytest.fixture(scope="session")
def ran():
    """The commands that have worked."""
    return set()


@pytest.fixture
def network_of_the_page(monkeypatch):
    """fsg finds mynet.py in the page's own folder, and other tests theirs."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("mynet", None)
    yield
    sys.modules.pop("mynet", None)


@pytest.mark.slow
@pytest.mark.usefixtures("network_of_the_page")
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_works(page, prepared, tmp_path, monkeypatch, ran):
    shutil.copytree(prepared / "page", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(prepared / "home"))
    monkeypatch.setenv("FSG_DATA", str(prepared / "cache"))
    for item in shown(ROOT / page, page):
        if item.kind == "python":
            problem = run_program(item.text)
            assert not problem, f"{item}\n{problem}"
        for arguments in run_here(item):
            problem = run_command(arguments, ran)
            assert not problem, f"{item}\n{problem}"


def run_here(item):
    """The commands of fsg in an item that are run."""
    if item.kind == "command":
        for arguments, usage in given(item):
            if not usage and arguments[0] == "fsg" and not why_parsed(arguments):
                yield arguments[1:]


def test_little_is_not_run():
    """Commands of fsg that are parsed alone are the smaller part, and each has its reason."""
    left, count = Counter(), 0
    for item in (item for page in PAGES for item in shown(ROOT / page, page) if item.kind == "command"):
        ours = [(arguments, usage) for arguments, usage in given(item) if fsg_of(arguments) is not None]
        count += bool(ours)
        if ours and not list(run_here(item)):
            arguments, usage = ours[0]
            why = "is a usage" if usage else why_parsed(arguments)
            assert why, f"{item}\n  is not run, for no reason in PARSED"
            left[why] += 1
    print(f"{count} commands of fsg, of which are parsed alone:")
    print(*(f"{number}: {why}" for why, number in left.most_common()), sep="\n")
    assert count > 30 and left.total() <= count / 2, left
