"""Draws pictures of simple shapes, a folder for each class: python draw_pictures.py FOLDER [PICTURES_OF_A_CLASS]."""

import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

SHAPES = {"circle": [1.0] * 60, "star": [1.0, 0.4] * 4, "triangle": [1.0] * 3}
"""How far the corners of each are from its middle, in equal angles around it."""


def draw(corners: list[float], chance: random.Random) -> Image.Image:
    """A shape of some size, place, angle and colour on a light ground, 64x48 pixels."""
    image = Image.new("RGB", (64, 48), tuple(chance.randrange(170, 256) for _ in range(3)))
    radius, turn = chance.uniform(14, 20), chance.uniform(0, 2 * math.pi)
    x, y = 32 + chance.uniform(-3, 3), 24 + chance.uniform(-3, 3)
    angles = [turn + 2 * math.pi * number / len(corners) for number in range(len(corners))]
    points = [
        (x + radius * far * math.cos(angle), y + radius * far * math.sin(angle))
        for far, angle in zip(corners, angles, strict=True)
    ]
    ImageDraw.Draw(image).polygon(points, fill=tuple(chance.randrange(0, 130) for _ in range(3)))
    return image


def main(folder: Path, count: int) -> None:
    chance = random.Random(0)
    for name, corners in SHAPES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            draw(corners, chance).save(folder / name / f"{number:03}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 150)
