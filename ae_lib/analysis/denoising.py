"""Remove noise: noisy images, and a network that corrects them without a bottleneck."""

from ae_lib.data import whole_number

import keras
import numpy as np
from keras import layers


def add_noise(x, std, seed=0):
    """Add Gaussian noise to images and clip the sum to [0, 1].

    Clipping makes the noise biased: the mean of an empty pixel becomes σ / √(2 π).

    Parameters
    ----------
    x : float32 array, shape (n, pixels), in [0, 1]
    std : float, or float array, shape (n,), at least 0
        Standard deviation σ of the noise, in the pixels' unit; an array has one for each image.
    seed : int, at least 0

    Returns float32 array of the shape of ``x``.
    """
    noise = np.random.default_rng(seed).standard_normal(x.shape, dtype="float32")
    noise *= np.reshape(np.asarray(std, "float32"), (-1, 1))  # in place: copies take much memory
    noise += x
    return np.clip(noise, 0, 1, out=noise)


def residual_network(shape=(28, 28), filters=(32, 64)):
    """Build a convolutional network that predicts a correction of the noisy image.

    The correction is added to the image, and the output is the sigmoid of the sum. Each
    convolution, of ``filters`` filters, has a stride of 2; one more follows the last, and
    transposed convolutions lead back to the image's size. After Zhang, Zuo, Chen, Meng and Zhang,
    "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising", IEEE TIP 26,
    2017 (DnCNN), whose 17 layers keep the image's size, and whose output is the noise itself.

    ``shape`` is the images' height and width, which may have any size. Returns a keras.Model,
    (n, h · w) → (n, h · w), not compiled; its initial weights follow `keras.utils.set_random_seed`.
    Raises `StudyError` unless ``shape`` and ``filters`` are whole numbers of at least 1.
    """
    height, width = (whole_number("shape", side) for side in shape)
    filters = [whole_number("filters", count) for count in filters]
    below, right = (-side % 2 ** len(filters) for side in (height, width))
    options = {"kernel_size": 3, "padding": "same", "activation": "relu"}
    images = keras.Input((height * width,), name="images")
    square = layers.Reshape((height, width, 1))(images)
    h = layers.ZeroPadding2D(((0, below), (0, right)))(square)
    for count in filters:
        h = layers.Conv2D(count, strides=2, **options)(h)
    h = layers.Conv2D(filters[-1], **options)(h)
    for count in filters[-2::-1]:
        h = layers.Conv2DTranspose(count, strides=2, **options)(h)
    options["activation"] = None
    correction = layers.Conv2DTranspose(1, strides=2, name="correction", **options)(h)
    correction = layers.Cropping2D(((0, below), (0, right)))(correction)
    corrected = layers.Activation("sigmoid")(layers.Add()([square, correction]))
    return keras.Model(images, layers.Flatten()(corrected), name="residual")
