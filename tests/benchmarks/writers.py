"""Files written directly against those of LCE's converter, in fsg's runtime: python writers.py [NETWORK]...

The two take turns, on one thread. Printed for each published network: sizes, the median time of the direct file, and
its ratio to the other's with the quartiles over the turns.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))


def measure(paths: list[Path], turns: int = 40) -> np.ndarray:
    """Seconds [turns, files] of one inference each; the first turns are not counted."""
    from fsg.runtime.model.session import open_model

    models = [open_model(path, num_threads=1) for path in paths]
    for model in models:
        model.fill()
    seconds = np.zeros((turns, len(models)))
    for turn in range(-5, turns):
        for i, model in enumerate(models):
            start = time.perf_counter()
            model.invoke()
            if turn >= 0:
                seconds[turn, i] = time.perf_counter() - start
    return seconds


def main() -> None:
    import zoo

    from fsg import FsgError
    from fsg.export.formats.tflite.write import to_tflite
    from fsg.export.recognise import simplify
    from fsg.export.trace import trace

    for name in sys.argv[1:] or zoo.ZOO:
        graph = simplify(trace(zoo.trained(name, steps=1), zoo.ZOO[name][1]))
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for writer in ("direct", "lce"):
                try:
                    content = to_tflite(graph, writer=writer)[0]
                except FsgError:
                    continue
                paths.append(Path(folder) / f"{writer}.tflite")
                paths[-1].write_bytes(content)
            seconds = measure(paths)
            sizes = " against ".join(f"{path.stat().st_size:,}" for path in paths)
        text = f"{name:18} {1e3 * np.median(seconds[:, 0]):7.2f} ms, {sizes} bytes"
        if len(paths) == 2:
            low, middle, high = np.quantile(seconds[:, 0] / seconds[:, 1], (0.25, 0.5, 0.75))
            text += f", ratio to LCE's converter {middle:.2f} ({low:.2f} to {high:.2f})"
        print(text, flush=True)


if __name__ == "__main__":
    main()
