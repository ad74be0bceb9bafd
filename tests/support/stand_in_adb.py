"""The `adb` of `StandInPhone`: a program that does what adb does, as far as fsg makes use of it.

Output and errors come apart, exit codes arrive, and what adb itself has to say goes to its errors with exit code 1. A
connection that is lost ends without a word.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from faulty_board import FaultyBoard

REFUSALS = {
    "unauthorized": "error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\n"
    "Try 'adb kill-server' if that seems wrong.\nOtherwise check for a confirmation dialog on your device.",
    "offline": "error: device offline",
    "old": "error: target doesn't support PTY args -Tt",
}


def main(folder: Path, words: list[str]) -> int:
    if words == ["start-server"]:
        return 0
    state = json.loads((folder / "state.json").read_text())
    states = state.pop("states")
    serial = None
    if words[0] == "-s":
        serial, words = words[1], words[2:]
    assert words[:4] == ["shell", "-T", "-e", "none"], words
    if serial is None and len(states) != 1:
        return refuse("error: more than one device/emulator" if states else "error: no devices/emulators found")
    serial = serial or next(iter(states))
    if serial not in states:
        return refuse(f"error: device '{serial}' not found")
    if states[serial] in REFUSALS:
        return refuse(REFUSALS[states[serial]])
    phone = object.__new__(FaultyBoard)
    vars(phone).update(state)
    return shell(folder, phone, " ".join(words[4:]))


def refuse(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


def shell(folder: Path, phone: FaultyBoard, script: str) -> int:
    """Runs a script on the phone and passes on what it reads, writes and ends with."""
    with open(folder / "commands", "a") as file:
        file.write(json.dumps(script) + "\n")
    is_keeper, is_run = "fsg-ready" in script, "./fsg_benchmark run" in script
    if is_keeper:
        (folder / "keeper").write_text(str(os.getpid()))
    if is_run and phone.fault in ("drop", "stall"):
        dropped = phone.fault == "drop"
        os.kill(int((folder / "keeper").read_text()), signal.SIGKILL if dropped else signal.SIGSTOP)
        if dropped:
            return 1
        time.sleep(600)
    places = {"cwd": "/", "env": {"HOME": "/proc", "PATH": f"{phone._bin}:{os.environ['PATH']}"}}
    # No place for programs but one: / cannot be written on a phone, and it has no /tmp.
    places["env"]["TMPDIR"] = "/proc"
    command = phone.changed(script).replace(" /data/local/tmp;", ' "$LOCAL_TMP";')
    places["env"]["LOCAL_TMP"] = phone.home
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        ["sh", "-c", command], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True, **places
    )
    threading.Thread(target=copy, args=(0, child.stdin.fileno(), child.stdin), daemon=True).start()
    copies = [
        threading.Thread(target=copy, args=(source.fileno(), sink, None))
        for source, sink in ((child.stdout, 1), (child.stderr, 2))
    ]
    for thread in copies:
        thread.start()
    if is_run and phone.fault == "unplug":
        time.sleep(0.3)
        os.kill(int((folder / "keeper").read_text()), signal.SIGKILL)
        os._exit(1)
    for thread in copies:
        thread.join()
    code = child.wait()
    return code if code >= 0 else 128 - code


def copy(source: int, sink: int, closed: object) -> None:
    """Copies to the end of the source, or until the sink wants no more."""
    with suppress(OSError):
        while data := os.read(source, 1 << 16):
            while data:
                data = data[os.write(sink, data) :]
    if closed is not None:
        closed.close()


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), sys.argv[2:])
    os._exit(code)  # without waiting for a thread that still reads the input
