"""docs/pictures/speed.svg shows what the table in docs/runtime.md says."""

from speed_picture import DOCS, PICTURE, measured, picture


def test_the_picture_is_that_of_the_table():
    text = (DOCS / "runtime.md").read_text()
    assert PICTURE.read_text() == picture(text), "python tests/support/speed_picture.py --write"
    rows = {name: (milliseconds, values) for name, milliseconds, values in measured(text)}
    assert len(rows) == 6 and rows["QuickNet"] == (4.69, [1.0, 2.4, 6.9, 10.2])
