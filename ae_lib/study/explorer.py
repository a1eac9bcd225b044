"""The explorer: one page that opens without network, in which a run's trained models are tried out.

The page runs the models itself. Their weights, some images and what the panels need of all others
stand in it as one block, compressed by gzip and written as Ascii85.
"""

import base64
import gzip
import json
from pathlib import Path

from ae_lib import StudyError, metrics, models
from ae_lib.analysis import anomaly, codec, codec_layers, latent
from ae_lib.run import explained_write_errors, model_file, write_bytes

import numpy as np

LIMIT = 6_000_000  # bytes of the page; optional parts are left out above it
SHOWN = ("dense", "conv", "vae")
LAYERS = ("Dense", "Conv2D", "Conv2DTranspose", "Cropping2D")  # others change no number
CODEC = "07_compress_images/codec.npz"
OWN = "14_use_your_own_images"  # which trains one network, and fits its codec, on a user's images
STEPS = np.geomspace(0.06, 5, 18)  # quantisation steps, within those of 07_compress_images
PCA_STEPS = np.geomspace(0.2, 10, 30)  # between which those of equal bits are interpolated
PCA_COMPONENTS = 192  # of the codec with PCA; 384 lower its error by less than 1 % up to 100 bits
TOLERANCE = 9.5e-4  # largest change of a pixel that rounding the weights may cause
QUANTILES = 0.01, 0.99  # of the training codes: the ends of the sliders


class Block:
    """Arrays in a row; ``add`` returns where an array stands, which the page turns back."""

    def __init__(self, precision):
        self.exact = {"rounded": False, "float32": True}[precision]
        self.parts, self.size = [], 0
        self.steps = {}  # id of a network's variable to the step to which it was rounded

    def add(self, array, step=None):
        """Append bytes as they are, floats as float32, or as multiples of ``step``, unless exact.

        Multiples count from −32,768, so that the third byte is 0 for nearly all; all lowest bytes
        come first, then the next ones: gzip finds more in bytes of one meaning.
        """
        flat, place = np.asarray(array).ravel(), {"at": self.size, "n": np.size(array)}
        if flat.dtype == "uint8":
            planes, place["bytes"] = flat[:, None], 1
        elif self.exact or not step:
            planes, place["bytes"] = flat.astype("<f4").view("u1").reshape(-1, 4), 4
        else:
            multiples = np.rint(flat / step).astype("<i4") + 32768
            planes = multiples.view("u1").reshape(-1, 4)[:, :3]
            place |= {"bytes": 3, "step": float(step)}
        self.parts.append(planes.T.tobytes())
        self.size += planes.size
        return place

    def add_to_bits(self, array, bits):
        """Append an array with ``bits`` for its largest value."""
        return self.add(array, np.abs(array).max() / 2**bits)

    def packed(self):
        """Return all arrays as text: Ascii85, with "v" for "<", which could end a script."""
        packed = base64.a85encode(gzip.compress(b"".join(self.parts), 9, mtime=0))
        return packed.replace(b"z", b"!!!!!").replace(b"<", b"v").decode()


def write(folder, images, path=None, model="dense", precision="rounded", state="", **options):
    """Write the page of a run to ``path``, by default ``explorer.html`` in its folder.

    The panels show ``model``; those of `SHOWN` that the run has stand beside it in one of them.

    Parameters
    ----------
    folder : path
        The run's folder, ``reports/<profile>``; only the model must be there.
    images : ae_lib.data.Dataset
        The images that the run was trained on, of any size, with labels or without.
    model : str, of `ae_lib.run.MODELS`
    precision : str
        ``"rounded"``: weights have as few bits as change no pixel of 100 test images by more than
        `TOLERANCE`; or ``"float32"``, for tests: weights are exact, and the size has no limit.
    state : str
        What tells this page from one of other models; it stands in the page's head.
    options : test_images, train_images : int
        How many images the page holds; fewer of large images. By default 800 and 1,400.
    options : tsne_iterations, seed : int
        Of the map by t-SNE, which is left out for 0 iterations; and of the images and the map.

    Returns the path. A page above `LIMIT` is written without VAE, codec or convolutional network,
    in this order, and says so. Raises `StudyError` if the model is not there.
    """
    folder, left_out = Path(folder), []
    path = Path(path or folder / "explorer.html")
    page = _page(folder, images, model, precision, left_out, state, **options)
    for part in ("vae", "codec", "conv"):
        if len(page) <= LIMIT or precision == "float32":
            break
        if part != model:
            left_out.append(part)
            page = _page(folder, images, model, precision, left_out, state, **options)
    with explained_write_errors(path.parent):
        write_bytes(path, page)
    return path


def _page(folder, images, model, precision, left_out, state, **options):
    import jinja2

    block = Block(precision)
    content = _content(folder, images, model, block, left_out, **options)
    loader = jinja2.PackageLoader("ae_lib.study", "explorer")
    environment = jinja2.Environment(loader=loader, autoescape=True)
    source = {name: loader.get_source(environment, f"explorer.{name}")[0] for name in ("css", "js")}
    # In a script, nothing but "<" could end it.
    about = json.dumps(content, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    template = environment.get_template("explorer.html.j2")
    named = {"title": images.title, "state": state, "about": about, "block": block.packed()}
    return template.render(**named, **source).encode()


def _content(
    folder, images, model, block, left_out,
    test_images=800, train_images=1400, tsne_iterations=250, seed=0,
):  # fmt: skip
    networks = _networks(folder, model, left_out)
    made = None if "codec" in left_out else _codec_of(folder, networks[model])
    rng, x_train = np.random.default_rng(seed), images.x_train
    rows = {
        "test": _sample(rng, len(images.y_test), test_images, images.pixels),
        "train": _sample(rng, len(images.y_train), train_images, images.pixels),
    }
    x = images.x_test[rows["test"]]
    agreement = {
        name: round_weights(network.autoencoder, x[:100], block)
        for name, network in networks.items()
    }
    pca, axes = _pca(networks[model], x_train, made)
    coders = {
        model: (networks[model].encoder, networks[model].decoder),
        "pca": (lambda x: (x - pca.mean_) @ axes.T, lambda z: pca.mean_ + z @ axes),
    }
    return {
        "title": images.title, "shape": images.shape, "classes": [str(k) for k in images.classes],
        "labelled": not images.single_class, "model": model, "left_out": left_out,
        "trained_on": len(x_train), "agreement": agreement,
        "images": _pixels(images, rows, block), "drawing": drawing_box(images),
        "networks": {name: describe(network, block) for name, network in networks.items()},
        "pca": {
            "mean": block.add(pca.mean_), "components": block.add_to_bits(pca.components_, 10),
        },
        "codes": {
            name: _codes(both, images, x_train, x, rows, block) for name, both in coders.items()
        },
        "scores": {
            name: _scores(both, images, block) for name, both in coders.items()
        },
        "ranks": _ranks(len(images.y_val)).tolist(), "validated_on": len(images.y_val),
        "maps": _maps(networks[model].encoder, x, tsne_iterations, seed, block),
        "codec": made and _codec(made, pca, images, x_train, x, block),
    }  # fmt: skip


def _networks(folder, model, left_out):
    """The run's models by name, the one of the panels first."""
    names = [name for name in dict.fromkeys([model, *SHOWN]) if name not in left_out]
    paths = {name: folder / "artifacts" / model_file(name) for name in names}
    if (own := folder / "artifacts" / OWN / "autoencoder.keras").is_file():
        paths = {model: own}
    if not paths[model].is_file():
        maker = model_file(model).split("/")[0]
        raise StudyError(f"{paths[model]} is missing; expected a finished {maker}: run it first.")
    return {name: models.load(path) for name, path in paths.items() if path.is_file()}


def _sample(rng, n, count, pixels):
    count = min(count, max(50, 784 * count // pixels))
    return np.sort(rng.permutation(n)[:count])


def round_weights(network, x, block, tolerance=TOLERANCE):
    """Round a network's matrices, in place, and return the largest change of an output for x.

    Each matrix has a step of its own, a multiple of which each weight becomes: the errors of the
    matrices add up to ``tolerance`` if they are independent, and large ones may err more.
    """
    if block.exact:
        return 0.0
    matrices = [v for v in network.weights if len(v.shape) > 1]
    exact, wanted = [v.numpy() for v in matrices], models.predict_in_batches(network, x)

    def change(steps):
        for variable, array, step in zip(matrices, exact, steps, strict=True):
            variable.assign(np.rint(array / step) * step if step else array)
        return float(np.abs(models.predict_in_batches(network, x) - wanted).max())

    steps, total = [], sum(array.size for array in exact)
    for i, array in enumerate(exact):
        trial = np.abs(array).max() / 2**8
        error = change([trial if j == i else 0 for j in range(len(exact))])
        factor = tolerance * np.sqrt(array.size / total) / max(error, 1e-9)
        steps.append(1.5 * trial * np.clip(factor, 2**-12, 8))
    while (error := change(steps)) > tolerance:
        steps = [0.98 * step for step in steps]
    block.steps |= {id(v): step for v, step in zip(matrices, steps, strict=True)}
    return error


def describe(network, block):
    """The layers of an autoencoder, with places for their weights."""
    parts = {"encoder": network.encoder.layers, "decoder": network.decoder.layers}
    both = {part: _layers(layers, block) for part, layers in parts.items()}
    latent_dim = network.encoder.output_shape[1]
    variational = isinstance(network.encoder.layers[-1], models.GaussianCode)
    return {**both, "latent_dim": latent_dim, "variational": variational}


def _layers(layers, block):
    return [_layer(layer, block) for layer in layers if type(layer).__name__ in LAYERS]


def _layer(layer, block):
    options = {"kind": type(layer).__name__, "in": layer.input.shape[1:]}
    weights = [block.add(v.numpy(), block.steps.get(id(v))) for v in layer.weights]
    options |= {"out": layer.output.shape[1:], "weights": weights}
    options["activation"] = layer.activation.__name__ if weights else "linear"
    if hasattr(layer, "strides"):
        options |= {"stride": layer.strides[0], "kernel": layer.kernel_size}
    return options


def _pca(network, x_train, made):
    """PCA of the training images, and as many of its components as the network's code has."""
    from sklearn.decomposition import PCA

    dim = min(network.encoder.output_shape[1], *x_train.shape)
    count = min(max(dim, PCA_COMPONENTS), *x_train.shape) if made else dim
    fewer = len(x_train) < x_train.shape[1]  # images than pixels, whose covariance takes minutes
    pca = PCA(count, svd_solver="full" if fewer else "covariance_eigh").fit(x_train)
    return pca, pca.components_[:dim]


def _pixels(images, rows, block):
    return {
        part: {
            "pixels": block.add(pixels[rows[part]]), "labels": labels[rows[part]].tolist(),
            "numbers": rows[part].tolist(), "of": len(labels),
        }
        for part, pixels, labels in (
            ("test", images.pixels_test, images.y_test),
            ("train", images.pixels_train, images.y_train),
        )
    }  # fmt: skip


def drawing_box(images):
    """Where training images have their ink: median longer side, and centre (right, down)."""
    x = images.x_train[:2000].reshape(-1, *images.shape)
    ink = x > 0.2
    sides = []
    for axis in (1, 2):
        there = ink.any(axis=axis)
        sides.append(there.shape[1] - there.argmax(axis=1) - there[:, ::-1].argmax(axis=1))
    profiles = x.sum(axis=(0, 1)), x.sum(axis=(0, 2))
    centre = [float(p @ (np.arange(len(p)) + 0.5) / max(p.sum(), 1e-9)) for p in profiles]
    return {"side": float(np.median(np.maximum(*sides))), "centre": centre}


def _codes(coder, images, x_train, x, rows, block):
    """What the panels need of a model's codes: of the embedded training images, and of all."""
    encode, decode = coder
    train, test = (models.predict_in_batches(encode, part) for part in (x_train, x))
    mean = train.mean(axis=0)
    run = lambda codes: models.predict_in_batches(decode, codes)  # noqa: E731
    costs = latent.unit_costs(run, x[:500], test[:500], mean).mean(axis=0)
    classes = range(len(images.classes))
    by_class = [train[images.y_train == k] for k in classes]
    means = [codes.mean(axis=0) if len(codes) else mean for codes in by_class]
    ends = np.quantile(train, QUANTILES, axis=0)
    return {
        "train": block.add_to_bits(train[rows["train"]], 9), "means": block.add(means),
        "mean": mean.tolist(), "std": train.std(axis=0).tolist(), "low": ends[0].tolist(),
        "high": ends[1].tolist(), "costs": costs.tolist(), "order": np.argsort(-costs).tolist(),
        "mse": float(metrics.mse(x, run(test)).mean()),
        "accuracy": _accuracy(train[rows["train"]], test, images, rows),
    }  # fmt: skip


def _accuracy(train, test, images, rows, k=5):
    """Share of the page's test images that the page's training images classify correctly."""
    if images.single_class or len(train) < k:
        return None
    _, nearest = latent.neighbours(train, test, k)
    votes = latent.vote(images.y_train[rows["train"]], nearest)
    return float((votes == images.y_test[rows["test"]]).mean())


def _scores(coder, images, block):
    (encode, decode), x = coder, images.x_val
    y = models.predict_in_batches(decode, models.predict_in_batches(encode, x))
    scores = {"squared": metrics.mse(x, y), "relative": anomaly.relative_error(x, y, images.shape)}
    ranks = _ranks(len(x))
    return {name: block.add(np.sort(values)[ranks]) for name, values in scores.items()}


def _ranks(n, count=1000):
    return np.unique(np.linspace(0, n - 1, count).round().astype("int64"))


def _maps(encoder, x, iterations, seed, block):
    """Positions of the test images; for PCA also its mean and axes, which lead back to a code."""
    codes = models.predict_in_batches(encoder, x)
    points, d, mean = latent.map_by_pca(codes), codes.shape[1], codes.mean(axis=0)
    axes = np.linalg.lstsq(points, codes - mean, rcond=None)[0]  # rows 0 beyond one unit
    if d == 1:  # a line would hide most points
        points[:, 1] = np.random.default_rng(seed).uniform(-1, 1, len(x)) * points.std()
    maps = {
        "pca": {
            "points": block.add(points), "mean": mean.tolist(),
            "axes": axes.tolist(), "units": d,
        }
    }  # fmt: skip
    if iterations:
        from openTSNE import TSNE

        start, perplexity = "pca" if d > 1 else "random", min(30, (len(x) - 1) // 3)
        options = {"initialization": start, "perplexity": perplexity, "random_state": seed}
        tsne = TSNE(n_iter=iterations, neighbors="exact", **options)
        maps["tsne"] = {"points": block.add(np.asarray(tsne.fit(codes)))}
    return maps


def _codec_of(folder, network):
    """The run's codec if it has the network's encoder; None if there is none."""
    paths = [folder / "artifacts" / name for name in (CODEC, f"{OWN}/codec.npz")]
    made = next((codec.load(path) for path in paths if path.is_file()), None)
    layers = codec_layers.from_keras(models.mean_encoder(network.encoder).layers)
    return made if made and _arrays(layers) == _arrays(made.encoder[:-1]) else None


def _arrays(layers):
    return [part.tobytes() for layer in layers for part in layer.parts().values()]


def _codec(made, pca, images, x_train, x, block):
    """The codec's last layer and decoder, its bins at each step, and PCA's at equal mean bits."""
    import keras

    inputs, last = made.decoder[0].inputs, made.encoder[-1]
    layers = codec_layers.to_keras(made.decoder)
    decoder = keras.Sequential([keras.Input((inputs,)), *layers])
    coordinates = made.encode(x[:100])
    logs = np.full((len(coordinates), inputs - coordinates.shape[1]), np.log(STEPS[0]))
    samples = np.column_stack([coordinates, logs]).astype("float32")
    round_weights(decoder, samples, block, 8 * TOLERANCE)  # nothing is compared with it
    gain, rival = _pca_codec(pca, made.rounding, images)
    first = {"kind": "Dense", "activation": "linear"}
    first["weights"] = [block.add(last.weights), block.add(last.bias)]
    steps = _steps_at_equal_bits(rival, [_mean_bits(made, step, x) for step in STEPS], x)
    own, of_pca = _rates(made, STEPS, x, block), _rates(rival, steps, x, block)
    return {
        "rounding": made.rounding, "cell": codec.CELL, "coordinates": first,
        "decoder": _layers(layers, block), "gain": gain, "rates": own, "pca": of_pca,
    }  # fmt: skip


def _pca_codec(pca, rounding, images, gains=(1, 1.1, 1.3, 1.5), step=1.45):
    """PCA's codec and its contrast, chosen as in 07_compress_images."""
    candidates, x = {}, images.x_val[:1000]
    for gain in gains:
        made = codec.from_pca(pca, images.pixels_train, rounding, gain)
        y = made.decode(made.dequantise(made.quantise(made.encode(x), step), step), step)
        candidates[metrics.mse(x, y).mean()] = gain, made
    return candidates[min(candidates)]


def _mean_bits(made, step, x):
    return made.ideal_bits(made.quantise(made.encode(x), float(step)), float(step)).mean()


def _steps_at_equal_bits(made, bits, x):
    """Steps at which a codec needs as many bits, as far as `PCA_STEPS` reach."""
    reached = [_mean_bits(made, step, x) for step in PCA_STEPS[::-1]]
    return np.exp(np.interp(bits, reached, np.log(PCA_STEPS[::-1])))


def _rates(made, steps, x, block):
    """At each step the values and bits of all bins, and mean bits and error of images x."""
    coordinates, rates = made.encode(x), []
    for step in map(float, steps):
        bins, symbols = made.bins(step), made.quantise(coordinates, step)
        y = made.decode(made.dequantise(symbols, step), step)
        bits = [-np.log2(part.weight / part.weight.sum()) for part in bins]
        rates.append({
            "step": step, "counts": [len(part.value) for part in bins],
            "values": block.add_to_bits(np.concatenate([part.value for part in bins]), 11),
            "lengths": block.add_to_bits(np.concatenate(bits), 10),
            "bits": float(made.ideal_bits(symbols, step).mean()),
            "mse": float(metrics.mse(x, y).mean()),
        })  # fmt: skip
    return {"first": made.first.tolist(), "steps": rates}
