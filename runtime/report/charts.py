"""Curves of a training as SVG for the page, drawn by matplotlib where it is installed, in the page's own colours."""

import io
import re
from collections.abc import Sequence
from importlib.util import find_spec

from fsg.runtime.axes import marks, set_accuracy, set_epochs, set_loss

SIZE = (5.6, 3.0)  # inches of 72 pixels; about as large as the page shows it, so that its text is that of the page
TEXT = 12  # pixels
# matplotlib takes no CSS variables: these stand for them until the drawing is done.
COLOURS = {"soft": "#010203", "line": "#010204", "train": "#010205", "test": "#010206"}


def can_draw() -> bool:
    """Whether matplotlib is here."""
    return find_spec("matplotlib") is not None


def curve(epochs: Sequence[dict[str, float]], quantity: str, label: str) -> str:
    """An <svg> of train_QUANTITY and test_QUANTITY over the rows of metrics.csv; what is no number is left out.

    `quantity` is "accuracy", a fraction, or "loss". Empty where the rows have neither.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = [name for name in (f"train_{quantity}", f"test_{quantity}") if all(name in row for row in epochs)]
    if not epochs or not names:
        return ""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    numbers = [row["epoch"] for row in epochs]
    for name in names:
        colour = COLOURS[name.partition("_")[0]]
        axes.plot(numbers, [row[name] for row in epochs], color=colour, markersize=4, **marks(numbers))
    axes.set_xlabel("epoch", color=COLOURS["soft"], size=TEXT)
    set_epochs(axes, numbers)
    set_values = set_accuracy if quantity == "accuracy" else set_loss
    set_values(axes, [row[name] for row in epochs for name in names])
    axes.grid(axis="y", color=COLOURS["line"])
    axes.tick_params(length=0, labelcolor=COLOURS["soft"], labelsize=TEXT)
    axes.spines[:].set_visible(False)
    for artist in figure.findobj():
        artist.set_clip_on(False)  # a clip path would be a link
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": quantity, "font.family": "sans-serif"}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return _inline(text.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    """The drawing as a part of an HTML page: without a prologue, name spaces and ids that nothing refers to."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{label}">', svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'href="#([^"]*)"', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
