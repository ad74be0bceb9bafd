"""Residual blocks on aarch64 in LiteRT itself, under qemu-aarch64: fusion saves instructions and changes no bit."""

import blocks
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(blocks.why_not() is not None, reason=str(blocks.why_not())),
]


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    return blocks.Board.make(tmp_path_factory.mktemp("board"))


@pytest.mark.parametrize(
    ("name", "size", "channels", "least"),
    [
        ("ReActNet", 32, 16, 0.5),
        ("ReActNet", 56, 64, 0.35),
        ("ReActNet, RELU", 32, 16, 0.45),
        ("ReActNet, RELU", 8, 64, 0.35),
        ("ReActNet", 28, 128, 0.25),
        ("PReLU", 32, 16, 0.2),
        ("Bi-Real", 56, 64, 0.01),  # an addition is all that there is to fuse
        ("Bi-Real", 16, 32, 0.03),
    ],
)
def test_fused_blocks_execute_fewer_instructions(board, name, size, channels, least):
    content = blocks.model(blocks.BLOCKS[name], size, channels)
    (fused, got), (unfused, expected) = board.run(content, True), board.run(content, False)
    assert got == expected
    assert 1 - fused / unfused >= least
