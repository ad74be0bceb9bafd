"""The picture of measured speed, docs/pictures/speed.svg, made of the table in docs/runtime.md.

python tests/support/speed_picture.py --write
"""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PICTURE = DOCS / "pictures" / "speed.svg"
HEADINGS = ("fsg, 1 thread", "XNNPACK int8", "ONNX Runtime float32", "XNNPACK float32")
NAMES = ("fsg, on bits", "LiteRT, XNNPACK: int8", "ONNX Runtime: float32", "LiteRT, XNNPACK: float32")
LEFT, RIGHT, TOP, BAR, GAP = 212, 48, 84, 10, 16
WIDTH = 720
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2933 }
.small { font-size: 11px } .title { font-size: 15px; font-weight: 600 }
.card { fill: #ffffff; stroke: #d5dbe1 } .grid { stroke: #e4e9ee }
.c0 { fill: #00897b } .c1 { fill: #b8791f } .c2 { fill: #7a8fb5 } .c3 { fill: #b9c1cb }
@media (prefers-color-scheme: dark) {
  text { fill: #e3e8ee } .card { fill: #1d2229; stroke: #3a424d } .grid { stroke: #323a44 }
  .c0 { fill: #2fbfae } .c1 { fill: #d99a3d } .c2 { fill: #7f97c4 } .c3 { fill: #5d6775 }
}
"""


def measured(text: str) -> list[tuple[str, float, list[float]]]:
    """(network, milliseconds of fsg, how many times as long each of HEADINGS takes) from the first table."""
    lines = [line.strip("| ") for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    places = [rows[0].index(heading) for heading in HEADINGS]
    found = []
    for row in rows[2:]:
        if len(row) != len(rows[0]) or row[0] == "shape":
            break
        times = re.match(r"([\d.]+) ms", row[places[0]])
        assert times, row
        found.append((row[0], float(times[1]), [1.0, *(float(row[place].rstrip("x")) for place in places[1:])]))
    return found


def picture(text: str) -> str:
    """The chart as SVG, of the text of docs/runtime.md."""
    rows = measured(text)
    step = len(HEADINGS) * BAR + GAP
    height = TOP + len(rows) * step + 30
    longest = max(value for _, _, values in rows for value in values)
    scale = (WIDTH - LEFT - RIGHT) / longest
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' role="img" aria-label="Time of one image on one thread, in multiples of the time of fsg">',
        f"<style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        '<text class="title" x="16" y="28">Time of one image on one thread, in multiples of fsg\'s</text>',
    ]
    x = 16.0
    for number, name in enumerate(NAMES):
        out.append(f'<rect class="c{number}" x="{x:g}" y="45" width="11" height="11" rx="2"/>')
        out.append(f'<text class="small" x="{x + 16:g}" y="55">{name}</text>')
        x += 34 + 6.1 * len(name)
    bottom = height - 30
    for tick in range(0, int(longest) + 1, 2):
        at = LEFT + tick * scale
        out.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 8}" y2="{bottom}"/>')
        out.append(f'<text class="small" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{tick}x</text>')
    for line, (name, milliseconds, values) in enumerate(rows):
        top = TOP + line * step
        middle = top + len(HEADINGS) * BAR / 2
        size = 32 if name == "resnet20" else 224
        out.append(f'<text x="{LEFT - 12}" y="{middle - 1:g}" text-anchor="end">{name}</text>')
        note = f"{size}x{size}, fsg {milliseconds:g} ms"
        out.append(f'<text class="small" x="{LEFT - 12}" y="{middle + 13:g}" text-anchor="end">{note}</text>')
        for number, value in enumerate(values):
            y = top + number * BAR
            wide = value * scale
            out.append(f'<rect class="c{number}" x="{LEFT}" y="{y}" width="{wide:.1f}" height="{BAR - 1.5}" rx="1.5"/>')
            if number:
                out.append(f'<text class="small" x="{LEFT + wide + 5:.1f}" y="{y + 8.5}">{value:g}x</text>')
    return "\n".join([*out, "</svg>", ""])


if __name__ == "__main__":
    made = picture((DOCS / "runtime.md").read_text())
    if "--write" in sys.argv:
        PICTURE.write_text(made)
    else:
        print(made)
