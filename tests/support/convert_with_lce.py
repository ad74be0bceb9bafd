"""Run as a program by test_lce_converter.py: LCE's own converter on a network, and what TensorFlow computes.

TensorFlow stays out of the process that runs the tests.
"""

import sys
from pathlib import Path

import larq_compute_engine as lce
import numpy as np
import tensorflow as tf

RNG = np.random.default_rng(11)


def sign(x):
    return tf.where(x >= 0, 1.0, -1.0)


def signs(*shape):
    return tf.constant(RNG.choice(np.float32([-1, 1]), shape))


def normals(*shape):
    return tf.constant(RNG.standard_normal(shape), tf.float32)


class Network(tf.Module):
    """Packed chains, one and zero padding, a stride, pooling, a fused ReLU, odd channel counts."""

    def __init__(self):
        super().__init__()
        self.stem = normals(3, 3, 3, 32)
        self.kernels = [signs(3, 3, 32, 48), signs(3, 3, 48, 64), signs(3, 3, 64, 15), signs(1, 1, 15, 33)]
        self.scales = [normals(48), normals(64), tf.abs(normals(15)), normals(33)]
        self.shifts = [normals(48), normals(64), normals(15) * 9, normals(33)]
        self.head = normals(33, 10)

    def block(self, i, x, padding="VALID", strides=1, relu=False):
        y = tf.nn.conv2d(x, self.kernels[i], strides, padding)
        y = tf.nn.relu(y) if relu else y
        return y * self.scales[i] + self.shifts[i]

    @tf.function(input_signature=[tf.TensorSpec([1, 12, 12, 3], tf.float32)])
    def __call__(self, x):
        x = tf.nn.conv2d(x, self.stem, 1, "SAME")
        border = [[0, 0], [1, 1], [1, 1], [0, 0]]
        x = self.block(0, tf.pad(sign(x), border, constant_values=1.0))
        x = self.block(1, tf.pad(sign(x), [[0, 0], [0, 1], [0, 1], [0, 0]], constant_values=1.0), strides=2)
        x = sign(tf.nn.max_pool2d(x, 2, 2, "VALID"))
        x = self.block(2, x, padding="SAME")
        x = self.block(3, sign(x), relu=True)
        return tf.reduce_mean(x, [1, 2]) @ self.head


def main() -> None:
    folder = Path(sys.argv[1])
    network = Network()
    tf.saved_model.save(network, str(folder / "saved"))
    (folder / "model.tflite").write_bytes(lce.convert_saved_model(str(folder / "saved")))
    images = RNG.standard_normal((8, 12, 12, 3)).astype(np.float32)
    scores = np.concatenate([network(image[None]).numpy() for image in images])
    np.savez(folder / "expected.npz", images=images, scores=scores)


if __name__ == "__main__":
    main()
