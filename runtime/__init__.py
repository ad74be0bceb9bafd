"""Runs and measures exported models; needs neither PyTorch nor TensorFlow."""

import ctypes
import platform
from pathlib import Path

from fsg import FsgError


def delegate_path() -> str:
    """Path of the native library that gives LiteRT the binary operators.

    Raises:
        FsgError: the library was not built for this machine.
    """
    library = Path(__file__).with_name("libfsg_delegate.so")
    if not library.is_file():
        machine = f"{platform.system()} {platform.machine()}"
        raise FsgError(f"{library.name} was not built for {machine}: run `make setup` or reinstall fsg")
    return str(library)


def active_kernels() -> str:
    """Name of the kernels the native library picks on this processor, such as "avx2" or "neon"."""
    path = delegate_path()
    try:
        name = ctypes.CDLL(path).fsg_kernels
    except (OSError, AttributeError) as error:
        raise FsgError(f"{path} does not load ({error}): run `make setup` or reinstall fsg") from error
    name.restype = ctypes.c_char_p
    return name().decode()
