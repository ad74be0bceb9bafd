"""What an export's report.json says, in words for people."""

from typing import Any

SHOWN = 4  # names of layers in a line
DEPTHWISE = "one channel in each group"  # of which there is nothing to gain
WORTH_TELLING = 1.05  # how many times smaller a file is


def decisions(verify: dict[str, Any]) -> str:
    """How many decisions are not PyTorch's, and why; empty where none is, or the report is of an earlier version."""
    count = verify.get("differing", 0)
    if "flipped" in verify:
        near, looked_at = verify["flipped"]
        return (
            f"on {near} of {looked_at} images some sign's input is within rounding of zero, so {count} of"
            f" {verify['samples']} decisions differ; every value within the network is right"
        )
    if not count:
        return ""
    causes = {
        "signs within rounding of zero": verify.get("differing_near_zero", 0),
        "logits as high as each other": verify.get("differing_ties", 0),
    }
    text = f"{count} of {verify['samples']} decisions {'differs' if count == 1 else 'differ'}"
    found = [(number, cause) for cause, number in causes.items() if number]
    if not found:
        return text
    if len(found) == 1:
        share = {1: "", 2: "both "}.get(count, "all ")
        return f"{text}, {share}from {found[0][1]}"
    return f"{text}: {', '.join(f'{number} from {cause}' for number, cause in found)}"


def depth(artefact: dict[str, Any]) -> str:
    """What a deep comparison compared; empty where there was none."""
    count = artefact["verify"].get("values_compared")
    if count is None:
        return ""
    if not count:
        return "its results are those of a file written directly too; LCE's converter does not say which value is which"
    return f"{count} values within the network are right, each computed of the file's own"


def contents(artefact: dict[str, Any]) -> str:
    """How many of a file's bytes are what; empty in the report of an earlier version."""
    parts = [f"{count / 1e3:.1f} kB of {kind}" for kind, count in artefact.get("bytes", {}).items() if count >= 50]
    return ", ".join(parts)


def integers(artefact: dict[str, Any]) -> str:
    """What int8 does to decisions and accuracy; empty for a file without."""
    found = artefact.get("int8")
    if not found:
        return ""
    same = found["samples"] - found["differing"]
    learned = found.get("ranges") == "learned"
    how = f"int8 {found.get('what', 'weights')}{' on ranges learned in training' if learned else ''}"
    text = f"{same} of {found['samples']} decisions with {how} are as with {found['source'] if learned else 'float32'}"
    before = found.get("torch_accuracy", found.get("source_accuracy"))
    return text if before is None else f"{text}, accuracy {found['accuracy']:.2%} instead of {before:.2%}"


def memory(artefact: dict[str, Any]) -> str:
    """What a model.c takes of a microcontroller; empty for other formats."""
    if "arena_bytes" not in artefact:
        return ""
    flash, arena = artefact["size_bytes"] / 1e3, artefact["arena_bytes"] / 1e3
    return f"{flash:.1f} kB of flash beside its code, {arena:.1f} kB of RAM beside image and result"


def float_layers(report: dict[str, Any]) -> list[str]:
    """Binary layers that do not run on bits, a line for each reason; none for 32-bit activations, which rule it out."""
    if report.get("activation_bits") == 32:
        return []
    reasons: dict[str, list[str]] = {}
    for layer, reason in report.get("not_on_bits", {}).items():
        reasons.setdefault(reason, []).append(layer)
    return [
        f"not on bits, {f'having {reason}' if reason == DEPTHWISE else f'for the input is {reason} and no sign'}"
        + f": {', '.join(layers[:SHOWN])}"
        + (f" and {len(layers) - SHOWN} more" if len(layers) > SHOWN else "")
        for reason, layers in reasons.items()
    ]


def times_smaller(float_bytes: float, size_bytes: float) -> str:
    """How many times smaller a file is than the float32 weights; "no" where that is hardly so."""
    ratio = float_bytes / size_bytes
    return f"{ratio:.1f}x" if ratio >= WORTH_TELLING else "no"


def beside_float(artefact: dict[str, Any], report: dict[str, Any]) -> str:
    """How a file's size compares with that of the float32 weights, and why, where it is not smaller."""
    ratio = report["float_size_bytes"] / artefact["size_bytes"]
    if ratio >= WORTH_TELLING:
        return f"{ratio:.1f}x smaller than float32"
    text = (
        f"{'larger' if ratio < 1 else 'hardly smaller'} than the {report['float_size_bytes'] / 1e3:.1f} kB of float32"
    )
    floats = report.get("activation_bits") == 32 and artefact.get("format") == "tflite"
    return f"{text}: for 32-bit activations a .tflite stores one-bit weights as float32" if floats else text
