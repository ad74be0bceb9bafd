"""What is said of a board, and of the times that it measures."""

from fsg.runtime.boards.devices import find_device
from fsg.runtime.measure import on_board as remote

RPI4 = find_device("rpi4")


def test_facts_are_described():
    facts = {"model": "Raspberry Pi 4 Model B Rev 1.4", "cores": 4, "cpu": "Cortex-A72", "max_clock_mhz": 1800}
    facts |= {"governor": None, "memory_free_bytes": 3_456_789_012, "glibc": "2.31", "temperature_c": None}
    expected = "Raspberry Pi 4 Model B Rev 1.4, Cortex-A72, 4 cores, up to 1800 MHz, 3456 MB free, glibc 2.31"
    assert remote.described(facts) == expected


def test_doubts():
    calm = {"governor": "performance", "temperature_c": 55.0, "throttled": 0, "cpu": "Cortex-A72"}
    assert remote.doubts(calm, calm, RPI4, load=0.1) == []
    assert remote.doubts({}, {}, RPI4) == [] == remote.doubts({"throttled": None}, dict.fromkeys(calm), RPI4)
    (text,) = remote.doubts(calm, {**calm, "throttled": 0x40000}, RPI4)
    assert text == "it was throttled"
    throttled_long_ago = {**calm, "throttled": 0x50005 & 0xF0000}
    assert remote.doubts(throttled_long_ago, throttled_long_ago, RPI4) == []
    assert len(remote.doubts(calm, {**calm, "throttled": 0x50005}, RPI4)) == 2
    (text,) = remote.doubts({**calm, "temperature_c": 84.9}, calm, RPI4)
    assert text == "it was hot: 85 °C"
    (text,) = remote.doubts(calm, {**calm, "cpu": "Cortex-A76"}, RPI4)
    assert "Cortex-A76, not the cortex-a72 of rpi4" in text
    (text,) = remote.doubts(calm, calm, RPI4, load=2.0)
    assert text == "it was busy before: load 2.0"
