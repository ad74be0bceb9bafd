"""Runs and measures exported models; needs neither PyTorch nor TensorFlow."""

import ctypes
import platform
from typing import Any

from fsg import FsgError


def delegate_path() -> str:
    """Path of the native library that gives LiteRT the binary operators.

    Raises:
        FsgError: the library was not built for this machine.
    """
    from fsg.runtime.targets import target

    return str(target(platform.machine()).delegate)


def active_kernels() -> str:
    """Name of the kernels the native library runs: FSG_KERNELS or the best of `possible_kernels`.

    Raises:
        FsgError: the library does not load, or this processor cannot run what FSG_KERNELS names.
    """
    find, message = native_function("fsg_kernels"), ctypes.create_string_buffer(256)
    find.restype = ctypes.c_char_p
    name = find(message, ctypes.c_size_t(len(message)))
    if name is None:
        raise FsgError(message.value.decode().removeprefix("fsg: "))
    return name.decode()


def possible_kernels() -> list[str]:
    """Names of the kernels this processor can run, best first; the last is "scalar", the plain reference."""
    names = ctypes.create_string_buffer(128)
    native_function("fsg_kernel_names")(names)
    return names.value.decode().split(", ")


def native_function(name: str) -> Any:
    """A function that the native library exports; FsgError where it does not load."""
    path = delegate_path()
    try:
        return ctypes.CDLL(path)[name]
    except (OSError, AttributeError) as error:
        raise FsgError(f"{path} does not load ({error}): run `make setup` or reinstall fsg") from error
