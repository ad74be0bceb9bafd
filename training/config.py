"""The settings of a training run: every default, bound and help text in one place, and their file."""

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from fsg import FsgError, expanded, replacing, require_utf8, why
from fsg.training.aliases import ALIASES
from fsg.training.registry import FIRST_LAST, METHODS, MODELS, check_name, quantizers

FORMAT = 3
"""Version of the run folder's files; raised when older runs can no longer be read."""

EARLIER_FSG = "learned with the weights"
"""`hypernetwork` of runs from before it was a setting: such a run can be exported but not trained on."""

AUTO_YES_NO = ("auto", "yes", "no")  # on a command line a pair of flags, --NAME and --no-NAME


def _setting(
    default: Any,
    text: str,
    *,
    choices: tuple[Any, ...] = (),
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    before: Callable[[Mapping[str, Any]], Any] | None = None,
) -> Any:
    """A field of Config. `before`: what it was in runs of this format from before there was such a setting."""
    bounds = {"at least": low, "above": above, "at most": high, "below": below}
    return field(default=default, metadata={"text": text, "choices": choices, "bounds": bounds, "before": before})


@dataclass(frozen=True)
class Config:
    """Settings of one run, as they stand in its config.toml."""

    # What is trained, on what
    method: str = _setting("fsg", "Gradient rule of the binary weights.", choices=tuple(METHODS))
    model: str = _setting("resnet20", f"{', '.join(MODELS)}, torchvision:NAME or MODULE:FACTORY.")
    dataset: str = _setting("digits", "digits, cifar10, cifar100, fashion-mnist, folder:PATH or npz:PATH.")
    data_dir: str = _setting("", "Folder where the data set is; without it, named ones are in a cache.")
    init: str = _setting("", "Start from the full-precision weights in this .pth file, or a run's checkpoint.pt.")
    split: float = _setting(
        0.0,
        "Of folder:PATH without test images: test on this share of each class, always the same, and train on the rest.",
        low=0,
        below=1,
        before=lambda run: 0.0,
    )
    train_images: int = _setting(
        0,
        "Train on so many of the training images, always the same, of all classes alike; 0 takes all.",
        low=0,
        before=lambda run: 0,
    )
    image_size: int = _setting(
        0, "Resize images to so many pixels a side; 0 leaves them.", low=0, high=4096, before=lambda run: 0
    )
    fit: str = _setting(
        "crop",
        "What --image-size takes of images that are not square: crop their middle, or stretch all of it.",
        choices=("crop", "stretch"),
        before=lambda run: "stretch",
    )
    augment: bool = _setting(True, "Random changes of the training images: --crop and --flip.")
    crop: int = _setting(
        -1,
        "Shifts by up to so many pixels; -1 takes an eighth of the image, 0 none.",
        low=-1,
        high=512,
        before=lambda run: -1,
    )
    flip: str = _setting(
        "auto",
        "Mirror half of the images; auto does so with photographs of known sets only.",
        choices=AUTO_YES_NO,
        before=lambda run: "yes" if run["dataset"].partition(":")[0] in ("npz", "folder") else "auto",
    )
    normalization: str = _setting(
        "auto",
        "Mean and std of the images: the data's own or published; auto takes those that --init and --teacher expect.",
        choices=("auto", "data", "cifar10", "half", "imagenet"),
    )

    # The binary network
    activation_bits: int = _setting(1, "1 runs as XNOR-popcount; 32 makes only the weights binary.", choices=(1, 32))
    first_last: str = _setting("float", "First convolution and classifier.", choices=FIRST_LAST)
    quantizer: str = _setting(
        "auto",
        "How latent weights become one bit; auto takes the method's own.",
        choices=("auto", "dorefa", "scaled-sign", "irnet"),
    )
    activation_gradient: str = _setting(
        "auto",
        "Surrogate gradient of the activations' sign; auto takes the method's own.",
        choices=("auto", "polynomial", "clipped", "ede"),
    )
    thresholds: bool = _setting(
        False,
        "A learnt shift of each channel before its sign, as in ReActNet (networks of fsg's own).",
        before=lambda run: False,
    )
    shortcut_pool: bool = _setting(
        False,
        "Where a block halves the image, its shortcut takes means of 2x2 pixels (networks of fsg's own).",
        before=lambda run: False,
    )
    int8_aware: bool = _setting(
        False,
        "Float layers round to 8-bit integers on ranges that they learn, and are exported so (fsg export --int8).",
        before=lambda run: False,
    )
    keep_float: str = _setting("", "Layers of your own or torchvision's model to leave float: names, * and ?, commas.")
    shortcut: bool = _setting(True, "Bi-Real shortcuts in your own or torchvision's model.")
    export_check: bool = _setting(
        True, "Refuse a network that could not be exported before it is trained.", before=lambda run: False
    )

    # The course of the training
    # Enough for digits; CIFAR wants 100 and more.
    epochs: int = _setting(12, "Passes over the training images.", low=1, high=10**6)
    batch_size: int = _setting(64, "Images per step, over all processes.", low=2, high=2**20)
    optimizer: str = _setting("adam", "For all parameters; FSG starts as its momentum.", choices=("adam", "sgd"))
    # What all methods learn well with on CIFAR-10 in W1A1; W1A32 wants half of it (docs/results.md).
    lr: float = _setting(
        8e-3, "Initial learning rate; with float activations half of it is better.", above=0, high=2**100
    )
    beta1: float = _setting(0.9, "Decay of the momentum.", low=0, below=1)
    beta2: float = _setting(0.0, "Adam: decay of the mean squared gradients; 0 takes the method's own.", low=0, below=1)
    weight_decay: float = _setting(0.0, "L2 penalty of the float weights; binary ones get none.", low=0, high=1000)
    schedule: str = _setting(
        "cosine",
        "Learning rate: cosine to 0, divided by 10 every --step-epochs, or constant.",
        choices=("cosine", "step", "constant"),
    )
    step_epochs: int = _setting(30, "See --schedule.", low=1, high=10**6)
    warmup_epochs: float = _setting(0.0, "The learning rate first rises for so many epochs.", low=0)
    label_smoothing: float = _setting(0.0, "Share of each label spread over all classes.", low=0, below=1)
    class_weights: str = _setting(
        "none",
        "In the loss: balanced counts all classes alike, however many images each has.",
        choices=("none", "balanced"),
        before=lambda run: "none",
    )
    ema: float = _setting(
        0.0, "Decay of averaged latent weights, tested and exported in their stead; 0 is off.", low=0, below=1
    )
    ede_end: float = _setting(
        0.0,
        "The polynomial gradient of signs becomes IR-Net's, ever narrower, for this last share of the training.",
        low=0,
        below=1,
        before=lambda run: 0.0,
    )
    two_stages: float = _setting(
        0.0,
        "Weights are trained as floats, activations as bits, for this first share of the training; tests are of bits.",
        low=0,
        below=1,
        before=lambda run: 0.0,
    )
    recalibrate: int = _setting(
        0,
        "After the last of --epochs, take the batch norms' statistics anew, of so many training images; 0 is off.",
        low=0,
        high=10**9,
        before=lambda run: 0,
    )
    teacher: str = _setting("", "Full-precision weights of the same network (.pth) to distil from.")
    teacher_weight: float = _setting(0.5, "Share of the teacher in the loss.", low=0, high=1)
    temperature: float = _setting(4.0, "Of the teacher's softmax.", above=0, high=1000)
    test_every: int = _setting(
        1, "Test after every so many epochs, and after the last.", low=1, high=10**6, before=lambda run: 1
    )
    patience: int = _setting(0, "Stop after so many epochs without a better test loss; 0 is never.", low=0, high=10**6)
    max_minutes: float = _setting(0.0, "Stop before an epoch that would end after so many minutes; 0 never.", low=0)

    # FSG
    variant: str = _setting("per-weight", "FSG: how the method is built.", choices=("per-weight", "reference"))
    alpha: float = _setting(
        -1.0, "FSG: weight of the slow gradient, the fast one has the rest; -1 takes the variant's own.", low=-1, high=1
    )
    history: int = _setting(
        5, "FSG: gradients that the slow net sees; 0 keeps none, not even momentum.", low=0, high=1000
    )
    slow: bool = _setting(True, "FSG: the slow net.")
    hypernetwork: str = _setting(
        "",
        "FSG: what fsg meta-train wrote, or none; without it, that which comes with fsg.",
        before=lambda run: EARLIER_FSG if (run["method"], run["variant"]) == ("fsg", "per-weight") else "",
    )
    embedding: bool = _setting(True, "FSG: the embedding that tells the slow net its layer.")
    fast_lr: float = _setting(
        0.0, "FSG, MetaQuant: learning rate of the fast net; 0 takes the variant's own.", low=0, high=1000
    )
    slow_lr: float = _setting(0.0, "FSG: learning rate of the slow net; 0 takes the variant's own.", low=0, high=1000)
    hidden: int = _setting(0, "FSG, MetaQuant: width of the fast net; 0 takes the variant's own.", low=0, high=4096)
    nonlinearity: str = _setting(
        "auto",
        "FSG, MetaQuant: of the fast net; auto takes the variant's own.",
        choices=("auto", "none", "relu", "tanh"),
    )
    expand: int = _setting(0, "FSG: channels of the slow net; 0 takes the variant's own.", low=0, high=1024)
    d_state: int = _setting(0, "FSG: states per channel of the slow net; 0 takes the variant's own.", low=0, high=1024)
    d_conv: int = _setting(0, "FSG: taps of the slow net's convolution; 0 takes the variant's own.", low=0, high=64)
    metanet: str = _setting("multi-fc", "MetaQuant: its network.", choices=("fc-grad", "multi-fc", "lstm"))

    # The machine
    seed: int = _setting(0, "Of weights, order and augmentation.", low=0, high=2**63 - 1)
    precision: str = _setting(
        "float32",
        "Of the network's arithmetic; bf16 is automatic mixed precision.",
        choices=("float32", "bf16", "float64"),
    )
    compile: bool = _setting(False, "Compile the network with torch.compile (needs a C++ compiler on CPUs).")
    deterministic: bool = _setting(False, "Only repeatable algorithms, and one thread on CPUs.")
    threads: int = _setting(0, "CPU threads; 0 leaves it to PyTorch. With 1, runs repeat exactly.", low=0, high=1024)
    device: str = _setting("auto", "auto takes a CUDA device if there is one.", choices=("auto", "cpu", "cuda"))
    tensorboard: bool = _setting(False, "Write TensorBoard events into the run folder.")

    def __post_init__(self) -> None:
        vars(self).update(parse_settings(vars(self), "settings"))
        if ":" not in self.model:
            check_name(self.model, MODELS, "model")
        for setting in fields(self):
            name, value = setting.name.replace("_", " "), getattr(self, setting.name)
            if setting.metadata["choices"]:
                check_name(value, setting.metadata["choices"], name)
            if isinstance(value, float) and abs(value) == float("inf"):
                raise FsgError(f"{name} is {value}: it must be finite")
            for relation, bound in setting.metadata["bounds"].items():
                if bound is not None and not _HOLDS[relation](value, bound):
                    raise FsgError(f"{name} is {value}: it must be {relation} {_written(bound)}")
        if self.warmup_epochs >= self.epochs:
            raise FsgError(f"warmup epochs is {self.warmup_epochs:g}: it must be below epochs, {self.epochs}")
        self._check_parts()

    def _check_parts(self) -> None:
        """Raises FsgError for parts of a recipe that these data, this network or this method do not have."""
        own = ":" not in self.model
        for option, given, fits, where in (
            ("--split", self.split, self.dataset.startswith("folder:"), f"folder:PATH, not {self.dataset}"),
            ("--thresholds", self.thresholds, own, f"fsg's own networks, not {self.model}"),
            ("--shortcut-pool", self.shortcut_pool, own, f"fsg's own networks, not {self.model}"),
            ("--thresholds", self.thresholds, self.activation_bits == 1, "one-bit activations"),
            ("--ede-end", self.ede_end, self.activation_bits == 1, "one-bit activations"),
            ("--ede-end", self.ede_end, quantizers(self)[1] == "polynomial", "--activation-gradient polynomial"),
        ):
            if given and not fits:
                raise FsgError(f"{option} is for {where}: leave it away")


def _written(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


_HOLDS = {
    "at least": lambda value, bound: value >= bound,
    "above": lambda value, bound: value > bound,
    "at most": lambda value, bound: value <= bound,
    "below": lambda value, bound: value < bound,
}

HEADINGS = {
    "method": "What is trained, on what",
    "activation_bits": "The binary network",
    "epochs": "The course of the training",
    "variant": "FSG and MetaQuant",
    "seed": "The machine",
}
"""Headings of the settings in help texts, by the first setting under each."""

RESUMABLE = (
    *("dataset", "data_dir", "teacher"),
    *("threads", "device", "compile", "tensorboard"),
    *("epochs", "test_every", "patience", "max_minutes"),
)
"""Settings that a resumed run may change: where files are, how the machine is used, when to stop."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {  # the setting of arXiv 2412.11777 and its code; add --init with full-precision weights
        "method": "fsg",
        "variant": "reference",
        "activation_bits": 32,
        "first_last": "binary",
        "epochs": 100,
        "batch_size": 128,
        "lr": 1e-3,
        "schedule": "step",
        "step_epochs": 30,
    },
    "edge": {  # for deployment; add --init and --teacher with full-precision weights where there are some
        "method": "fsg",
        "activation_bits": 1,
        "first_last": "float",
        "epochs": 200,
        "batch_size": 128,
        "lr": 12e-3,
        "schedule": "cosine",
        "teacher_weight": 0.9,
    },
}
"""Settings that belong together, by name; they replace defaults and give way to anything given."""


def settle(
    options: Mapping[str, Any],
    *,
    preset: str | None = None,
    file: Path | None = None,
    assignments: Sequence[str] = (),
) -> dict[str, Any]:
    """The settings that were given, with absolute paths; what is given more directly wins.

    `options` win over `assignments` ("key=value"), those over the TOML `file`, that over the `preset`. Errors: FsgError
    as `read_settings` and `parse_assignment`.
    """
    given = dict(PRESETS[preset]) if preset else {}
    given |= read_settings(file) if file else {}
    for assignment in assignments:
        given |= parse_assignment(assignment, f"--set {assignment}")
    return absolute_paths({**given, **options})


def absolute_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings, but with absolute paths, so that a run can be used from anywhere."""

    def absolute(path: str) -> str:
        found = str(expanded(path).resolve())
        require_utf8(found)  # as a link's target may be
        return found

    changed = {name: absolute(settings[name]) for name in ("init", "teacher", "data_dir") if settings.get(name)}
    if settings.get("hypernetwork") not in (None, "", "none", EARLIER_FSG):
        changed["hypernetwork"] = absolute(settings["hypernetwork"])
    kind, _, path = settings.get("dataset", "").partition(":")
    if kind in ("folder", "npz") and path:
        changed["dataset"] = f"{kind}:{absolute(path)}"
    return {**settings, **changed}


def nearest_setting(name: str) -> str:
    """The setting that somebody may have meant by a name; "" where none is near."""
    wanted = name.lower().replace("-", "_")
    known = next((setting for setting, others in ALIASES.items() if wanted in others), "")
    return known or next(iter(difflib.get_close_matches(wanted, [field.name for field in fields(Config)], n=1)), "")


def parse_settings(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Checks names and types of settings; true means yes. Errors: FsgError that names `where` and the nearest name."""
    settings, types = dict(values), get_type_hints(Config)
    for key, value in settings.items():
        if key not in types:
            near = nearest_setting(key)
            raise FsgError(f"{where}: unknown key {key!r}; " + (f"did you mean {near}?" if near else "remove it"))
        if (expected := types[key]) is float and type(value) is int:
            settings[key] = float(value)
        elif type(value) is bool and Config.__dataclass_fields__[key].metadata["choices"] == AUTO_YES_NO:
            settings[key] = "yes" if value else "no"
        elif not isinstance(value, expected) or isinstance(value, bool) is not (expected is bool):
            raise FsgError(f"{where}: {key} is {value!r}; it must be of type {expected.__name__}")
    return settings


def parse_assignment(text: str, where: str) -> dict[str, Any]:
    """The setting in "key=value", its value as TOML writes it or a bare word: {key: value}.

    Dashes in the key are underscores. Errors: FsgError as `parse_settings`.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise FsgError(f"{where}: {text!r} is no setting; write key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return parse_settings({key.strip().replace("-", "_"): parsed}, where)


def save_config(config: Config, path: Path) -> None:
    """Writes config.toml."""
    import tomli_w

    with replacing(path) as temporary:
        temporary.write_text(tomli_w.dumps({"format": FORMAT, **asdict(config)}), encoding="utf-8")


def load_config(path: Path) -> Config:
    """Reads config.toml. Errors: FsgError for a missing or broken file, another version, an unknown key or value."""
    if not path.exists():
        raise FsgError(f"{path.parent} is not a run: it has no {path.name}")
    settings = read_settings(path, formatted=True)
    absent = [field for field in fields(Config) if field.name not in settings]
    if missing := [field.name for field in absent if not field.metadata["before"]]:
        raise FsgError(f"{path} lacks {', '.join(missing[:3])}: it was cut short; restore it, or train anew")
    try:
        return Config(**settings, **{field.name: field.metadata["before"](settings) for field in absent})
    except FsgError as error:
        raise FsgError(f"{path}: {error}") from error


def read_settings(path: Path, *, formatted: bool = False) -> dict[str, Any]:
    """The settings in a TOML file. Its format, which a run's config.toml must have (`formatted`), must be ours.

    Errors: FsgError for a file that cannot be read, another version, an unknown key or a value of the wrong type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise FsgError(f"cannot read {path}: {why(error)}") from error
    if formatted or "format" in values:
        check_format(values.pop("format", None), path)
    return parse_settings(values, str(path))


def resume_config(config: Config, given: Mapping[str, Any], path: Path) -> Config:
    """The settings of the run at `path` (its config.toml) with those of `given` that may change.

    Errors: FsgError for a setting outside `RESUMABLE`, fewer epochs, other data or a teacher where there was none.
    """
    for name, value in given.items():
        old = getattr(config, name)
        allowed = name in RESUMABLE
        if name == "epochs":
            allowed = value > old
        elif name == "dataset":  # the same files elsewhere
            allowed = ":" in old and value.partition(":")[0] == old.partition(":")[0]
        elif name == "teacher":
            allowed = bool(value and old)
        if value != old and not allowed:
            raise FsgError(
                f"--{name.replace('_', '-')} {value} contradicts {path} ({old}): leave it away to resume, or start a"
                " new run with --out"
            )
    return replace(config, **given)


def check_format(version: object, path: Path) -> None:
    """Raises FsgError unless a file of a run has this version's format."""
    if version != FORMAT:
        found = "no run format" if version is None else f"run format {version}"
        raise FsgError(
            f"{path} has {found}, this fsg reads format {FORMAT}: use the version of fsg that wrote it, or train anew"
        )
