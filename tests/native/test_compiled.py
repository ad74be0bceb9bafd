"""What tests compile is compiled once: also when several ask at the same time, and again when a header changes."""

import sys
from concurrent.futures import ThreadPoolExecutor

import compiled


def test_a_result_is_made_once_and_again_after_a_change(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "FOLDER", tmp_path / "compiled")
    source, header, log = tmp_path / "source.cc", tmp_path / "header.h", tmp_path / "log"
    source.write_text("source")
    header.write_text("header")
    program = "import sys; open(sys.argv[1], 'a').write('x'); open(sys.argv[3], 'w').write('result')"
    command = [sys.executable, "-c", program, log]

    with ThreadPoolExecutor(4) as pool:
        results = set(pool.map(lambda _: compiled.built([source], command), range(4)))
    assert len(results) == 1 and results.pop().read_text() == "result" and log.read_text() == "x"

    header.write_text("another header")
    compiled.built([source], command)
    assert log.read_text() == "xx"
    assert not list(compiled.FOLDER.glob("*.tmp"))
