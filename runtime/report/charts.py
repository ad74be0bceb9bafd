"""Curves of a training as SVG for the page, drawn by matplotlib where it is installed, in the page's own colours."""

import io
import re
from collections.abc import Sequence
from importlib.util import find_spec

SIZE = (4.4, 2.6)  # inches of 72 pixels; about as large as the page shows it, so that its text is that of the page
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
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    names = [name for name in (f"train_{quantity}", f"test_{quantity}") if all(name in row for row in epochs)]
    if not epochs or not names:
        return ""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    for name in names:
        colour = COLOURS[name.partition("_")[0]]
        values = [row[name] for row in epochs]
        axes.plot([row["epoch"] for row in epochs], values, color=colour, marker="o", markersize=4, markevery=[-1])
    axes.set_xlabel("epoch", color=COLOURS["soft"])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if len(epochs) == 1:
        axes.set_xlim(0, 2)
    if quantity == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", color=COLOURS["line"])
    axes.tick_params(length=0, labelcolor=COLOURS["soft"])
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
