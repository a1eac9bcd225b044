# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Learn from few labels
#
# **What you will do.** Pretend that only a few training images have labels. Draw them ten times, classify the test images
# from pixels, from PCA and from the codes of the autoencoder, let the labels spread to the unlabelled images along a graph
# of codes, and train the encoder further against the same network from scratch.
#
# **What you will learn.** How much an encoder trained without labels helps when labels are few; how much of the gain is the
# encoder's and how much the graph's; why results from one draw of labels mean little.
#
# **What you need.** A trained model, by default that of `02_train`. **Time.** Three to four minutes on one core.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that the model was trained on
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
model: str = "dense"  # or another of ae_lib.run.MODELS; its metrics are kept under this name
seed: int = 0  # of the draws, the initial weights and the order of the minibatches
sizes: list = [100, 600, 1000, 3000]  # labels, ascending; multiples of the number of classes
n_draws: int = 10  # draws of labels; the intervals are over them
tune_on: int = 600  # labels on which hyper-parameters are chosen at most; more costs time and gains little
folds: int = 3  # of the cross-validation within the labels; no class may have fewer labels
workers: int = 2  # classifiers trained at a time; each takes half a gigabyte with 3,000 labels
neighbours: int = 10  # of each image in the graph; as in the literature
iterations: int = 30  # over the graph; twice as many change the validation error by less than its spread
steps: int = 400  # of Adam, for the encoder and the network from scratch alike
batch_size: int = 100  # images per step
learning_rate: float = 0.001  # the step size of Adam; this is Keras's default
goal: float = 0.118  # the error with the fewest labels that is to be reached; here that of M1+TSVM, see below
# fmt: on

# %% [markdown]
# ## Load the images and the encoder

# %%
from functools import partial

from ae_lib import data, figures, metrics, models
from ae_lib.analysis import few_labels
from ae_lib.run import Run, write_json

import keras
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

run = Run(profile, "08_learn_from_few_labels")
encoder = models.mean_encoder(models.load(run.model(model)).encoder)
encoder.input_shape, encoder.output_shape

# %%
images = data.load(dataset, image_size=image_size)
measured, claims, headline = {}, [], []
images

# %% [markdown]
# ## Draw the labels
#
# Each draw takes as many images of each class, at random from the training images. The smaller draws are the beginnings of
# the larger ones, so that a learning curve shows what *additional* labels bring. The indices are kept with the results.

# %% tags=["classes"]
sizes = few_labels.possible_sizes(images.y_train, sizes, folds)
draws = few_labels.balanced_draws(images.y_train, sizes, n_draws, seed)
np.savez_compressed(run.new_artifact("fewlabels_draws.npz"), draws=draws, sizes=sizes)
draws.shape

# %% tags=["classes"]
n_classes = len(images.classes)
n_rows = min(3, sizes[-1] // n_classes)
rows = draws[0][: n_rows * n_classes].reshape(n_rows, n_classes)
caption = (
    f"Figure 8.1. {images.title}: the first {n_rows} labelled images of each class in the first draw. With {sizes[0]} labels there "
    f"are {sizes[0] // n_classes} of each class, out of {len(images.y_train):,} training images."
)
shown = {f"number {i}": images.x_train[row] for i, row in enumerate(rows, 1)}
run.show(
    "08_draw",
    figures.image_rows(
        shown, images.shape, caption, titles=images.classes[images.y_train[rows[0]]]
    ),
)

# %% [markdown]
# ## Represent the images
#
# Four representations, all got without labels from the same training images: raw pixels, PCA with as many components as
# the code has numbers, the code (of a variational autoencoder its mean, here and below), and the encoder's last hidden
# layer. Each is centred and divided by its mean distance from the centre, so that one grid of hyper-parameters fits all.

# %% tags=["classes"]
last_hidden = models.last_hidden(encoder)
pca = PCA(encoder.output_shape[1], svd_solver="covariance_eigh").fit(images.x_train)
represent = {
    "pixels": lambda x: x,
    "pca": pca.transform,
    model: partial(models.predict_in_batches, encoder),
    "hidden": partial(models.predict_in_batches, last_hidden),
}


# %% tags=["classes"]
def represented(transform):
    train, test = transform(images.x_train), transform(images.x_test)
    centre = train.mean(axis=0)
    train = train - centre
    size = np.sqrt(np.square(train).sum(axis=1).mean())
    return np.divide(train, size, out=train), (
        test - centre
    ) / size  # in place: a hidden layer may be large


# %% tags=["classes"]
features = {name: represented(transform) for name, transform in represent.items()}
{name: train.shape[1] for name, (train, _) in features.items()}

# %% [markdown]
# ## Classify from the labels alone
#
# k-nearest neighbours, logistic regression, and a support vector machine with a Gaussian kernel. Their hyper-parameters are
# chosen by stratified cross-validation within the labels of the draw, never with others. The hidden layer is given to
# logistic regression only: on MNIST's validation images the code was better with the others.

# %% tags=["classes"]
estimators = {
    "1nn": (KNeighborsClassifier(1, algorithm="brute"), {}),
    "knn": (KNeighborsClassifier(algorithm="brute"), {"n_neighbors": [1, 3, 5]}),
    "logistic": (LogisticRegression(max_iter=2000), {"C": [1, 10, 100]}),
    "svm": (
        SVC(),
        {
            "C": [1, 10],
            "kernel": [partial(few_labels.gaussian_kernel, gamma=g) for g in (0.5, 1, 2)],
        },
    ),
}
methods = [("pixels", name) for name in ("1nn", "logistic", "svm")]
methods += [(name, kind) for name in ("pca", model) for kind in ("knn", "logistic", "svm")] + [
    ("hidden", "logistic")
]


# %% tags=["classes"]
def test_errors(name, kind, draw):
    (train, test), (estimator, grid) = features[name], estimators[kind]
    labelled = train[draw], images.y_train[draw]
    found = few_labels.tuned_predictions(estimator, grid, *labelled, test, sizes, tune_on, folds)
    return (found != images.y_test).mean(axis=1)


# %% tags=["classes"]
with threadpool_limits(
    1
):  # many small problems: one thread for each is faster than all threads for one
    jobs = [delayed(test_errors)(name, kind, draw) for name, kind in methods for draw in draws]
    found = Parallel(n_jobs=workers, prefer="threads")(jobs)
shape = len(methods), n_draws, len(sizes)
errors = {
    "_".join(method): values
    for method, values in zip(methods, np.reshape(found, shape), strict=True)
}
list(errors)

# %% [markdown]
# ## Let the labels spread
#
# The images without labels are not used up: they say where the classes lie. Every training image is joined to its nearest
# neighbours, and the labels spread along these edges until each image has the class that its neighbours have (Zhu,
# Ghahramani and Lafferty, "Semi-supervised learning using Gaussian fields and harmonic functions", ICML 2003). The test
# images are not in the graph: each is classified by a vote of its nearest training images, with the classes that these
# were given. Ten neighbours are the literature's; that there are enough iterations over the graph, and that class masses should
# be made equal, was seen on MNIST's validation images when this was written. Nothing is fitted to the labels of a draw.
#
# The same graph of PCA's components is the baseline: it tells the encoder's share of the result from the graph's.

# %% tags=["classes"]
graphs = {
    name: [
        few_labels.neighbour_weights(features[name][0], queries, neighbours)
        for queries in (None, features[name][1])
    ]
    for name in ("pca", model)
}
{name: [weights.shape for weights in pair] for name, pair in graphs.items()}

# %% tags=["classes"]
spread = {
    name: [few_labels.propagate(among, draws[:, :n], images.y_train, iterations) for n in sizes]
    for name, (among, _) in graphs.items()
}
for name, (_, to_graph) in graphs.items():
    found = [few_labels.vote(to_graph, classes) for classes in spread[name]]
    errors[f"{name}_propagation"] = (np.array(found) != images.y_test).mean(axis=2).T

# %% [markdown]
# How many of the unlabelled training images got the wrong class?

# %% tags=["nbval-ignore-output", "classes"]
wrong = {
    name: [100 * (s != images.y_train).mean() for s in by_size] for name, by_size in spread.items()
}
pd.DataFrame(wrong, sizes).rename_axis(index="labels", columns="wrong training labels / %").round(2)

# %% [markdown]
# ## Train the encoder further
#
# Now the encoder itself learns from the labels, with a softmax layer on its code, against the same network from scratch:
# the same number of Adam steps, the same minibatches, no augmentation, the same settings for all draws. Only the initial
# weights differ. The one network starts from the encoder and from logistic regression on its codes, fitted on the same
# labels; the other from Glorot's random weights.
#
# Why logistic regression first? On MNIST's validation images, a random softmax layer on the encoder destroyed more than the
# encoder brought, an effect that Kumar, Raghunathan, Jones, Ma and Liang describe in "Fine-tuning can distort pretrained
# features and underperform out-of-distribution", ICLR 2022; this is their remedy. The network from scratch was better off
# with its random layer. A ReLU on the code made no difference, so that the code is linear, as in the autoencoder.

# %% tags=["classes"]
classifier = models.classifier(encoder, n_classes)
trainer = few_labels.Trainer(
    classifier, images.pixels_train, images.y_train, steps, batch_size, learning_rate
)
codes = models.predict_in_batches(encoder, images.x_train)
strength = (
    10 / codes.var(axis=0).sum()
)  # the middle of the grid above, for codes that are not scaled
[(layer.name, layer.output.shape) for layer in classifier.layers]


# %% tags=["classes"]
def from_encoder(number, chosen):
    probe = LogisticRegression(C=strength, max_iter=2000).fit(codes[chosen], images.y_train[chosen])
    weights = np.column_stack([probe.coef_, probe.intercept_])
    if n_classes == 2:  # for which there is one row, that of the second class against the first
        weights = np.concatenate([-weights, weights]) / 2
    return [*encoder.get_weights(), weights[:, :-1].T, weights[:, -1]]


def from_scratch(number, chosen):
    keras.utils.set_random_seed((seed * n_draws + number) % 2**31)
    return models.classifier(encoder, n_classes).get_weights()


# %% tags=["classes"]
x_test = images.x_test


def trained_error(start, number, n):
    chosen = draws[number, :n]
    trainer.train(start(number, chosen), chosen, seed=[seed, number])
    return (classifier(x_test).numpy().argmax(axis=1) != images.y_test).mean()


# %% tags=["classes"]
starts = {"finetuned": from_encoder, "scratch": from_scratch}
with threadpool_limits(
    1, user_api="blas"
):  # of the logistic regressions; TensorFlow has threads of its own
    for name, start in starts.items():
        errors[name] = np.array(
            [[trained_error(start, number, n) for n in sizes] for number in range(n_draws)]
        )

# %% [markdown]
# ## Compare
#
# The best method on frozen features is named beforehand, without a look at any test label: propagation on the graph of
# codes. Intervals are Student's, over the draws: how far the mean would move with other draws of labels, for this network
# and these test images.


# %% tags=["classes"]
def over_draws(values):
    return metrics.student_interval(np.mean(values), np.std(values, ddof=1), len(values))


def fewer_errors(first, second):
    return over_draws(second - first).verdict


# %% tags=["classes"]
best_frozen = f"{model}_propagation"
intervals = {name: [over_draws(e) for e in values.T] for name, values in errors.items()}
results = pd.DataFrame(
    [
        (name, n, d, v[d, i])
        for name, v in errors.items()
        for i, n in enumerate(sizes)
        for d in range(n_draws)
    ],
    columns=["method", "labels", "draw", "error"],
)
results.to_csv(run.new_artifact("fewlabels_results.csv"), index=False)


# %% tags=["classes"]
def curve(name):
    return 100 * pd.DataFrame(intervals[name], sizes)


# %% tags=["classes"]
names = {
    "propagation, codes": f"{model}_propagation",
    f"propagation, PCA-{pca.n_components_}": "pca_propagation",
    "nearest neighbour, pixels": "pixels_1nn",
    "SVM, codes": f"{model}_svm",
    f"SVM, PCA-{pca.n_components_}": "pca_svm",
}
caption = (
    f"Figure 8.2. {images.title}: test error with frozen features, means over {n_draws} draws with 95 % intervals. "
    f"With {sizes[0]} labels, propagation takes the error of the codes from {curve(f'{model}_svm')['value'].iloc[0]:.1f} % to "
    f"{curve(f'{model}_propagation')['value'].iloc[0]:.1f} %; on PCA it reaches {curve('pca_propagation')['value'].iloc[0]:.1f} %."
)
curves = {label: curve(name) for label, name in names.items()}
run.show(
    "08_frozen",
    figures.intervals_by_group(curves, caption, "labels", "test error / %", joined=True),
)

# %% tags=["classes"]
kinds = {
    "k-NN": "knn",
    "logistic regression": "logistic",
    "SVM": "svm",
    "propagation": "propagation",
}
gains = {label: errors[f"pca_{kind}"] - errors[f"{model}_{kind}"] for label, kind in kinds.items()}
tables = {label: 100 * pd.DataFrame(map(over_draws, g.T), sizes) for label, g in gains.items()}
ahead = sum((table["low"] > 0).sum() for table in tables.values())
behind = sum((table["high"] < 0).sum() for table in tables.values())
caption = (
    f"Figure 8.3. {images.title}: what the codes gain over PCA under the same classifier on the same draws, with 95 % intervals; "
    f"above 0 the codes are better. They are in {ahead} of {4 * len(sizes)} comparisons, and worse in {behind}."
)
run.show(
    "08_gain", figures.intervals_by_group(tables, caption, "labels", "gain / percentage points")
)

# %% tags=["classes"]
gain = [over_draws(100 * g) for g in (errors["scratch"] - errors["finetuned"]).T]
caption = (
    f"Figure 8.4. {images.title}: the encoder trained further against the same network from scratch, with 95 % intervals. "
    f"It errs less often by {gain[0].value:.1f} [{gain[0].low:.1f}, {gain[0].high:.1f}] percentage points with {sizes[0]:,} labels, by "
    f"{gain[-1].value:.1f} [{gain[-1].low:.1f}, {gain[-1].high:.1f}] with {sizes[-1]:,}."
)
names = {
    "encoder trained further": "finetuned",
    "from scratch": "scratch",
    "SVM on frozen codes": f"{model}_svm",
}
curves = {label: curve(name) for label, name in names.items()}
run.show(
    "08_finetuned",
    figures.intervals_by_group(curves, caption, "labels", "test error / %", joined=True),
)

# %% [markdown]
# ## The results

# %% tags=["nbval-ignore-output", "classes"]
cells = {
    name: {
        n: f"{100 * i.value:.2f} ± {100 * v.std(ddof=1):.2f} [{100 * i.low:.2f}, {100 * i.high:.2f}]"
        for n, i, v in zip(sizes, intervals[name], values.T, strict=True)
    }
    for name, values in errors.items()
}
title = f"{images.title}, test error / %: mean ± standard deviation over {n_draws} draws [95 % interval of the mean]"
pd.DataFrame(cells).T.rename_axis(index=title, columns="labels")

# %% [markdown]
# Beside them, published errors on MNIST in per cent. They follow other protocols (other draws, other networks, other ways to
# choose hyper-parameters) and stand here for scale, not for a contest. M1 is the nearest relative of what is done here: a
# classifier on the frozen codes of a variational autoencoder; M1 + M2 and the ladder network learn from all images and the
# labels together.

# %% tags=["classes"]
published = {
    "M1 + TSVM": (11.82, 4.24, "Kingma, Mohamed, Rezende and Welling, NeurIPS 2014"),
    "M1 + M2": (3.33, 2.40, "Kingma, Mohamed, Rezende and Welling, NeurIPS 2014"),
    "Ladder network": (1.06, 0.84, "Rasmus, Berglund, Honkala, Valpola and Raiko, NeurIPS 2015"),
}
pd.DataFrame(published, ["100 labels", "1,000 labels", "source"]).T.rename_axis(
    columns="published, MNIST"
)

# %% [markdown]
# ## Decide
#
# Paired over the draws: *yes* or *no* if the 95 % interval of the mean difference leaves out 0, else *undecided*.

# %% tags=["classes"]
pairs = {
    "codes beat PCA under k-NN": (f"{model}_knn", "pca_knn"),
    "codes beat PCA under logistic regression": (f"{model}_logistic", "pca_logistic"),
    "codes beat PCA under an SVM": (f"{model}_svm", "pca_svm"),
    "codes beat PCA under propagation": (f"{model}_propagation", "pca_propagation"),
    "the hidden layer beats the codes under logistic regression": (
        "hidden_logistic",
        f"{model}_logistic",
    ),
    "training further beats training from scratch": ("finetuned", "scratch"),
    "training further beats an SVM on frozen codes": ("finetuned", f"{model}_svm"),
}
verdicts = {
    claim: [fewer_errors(a, b) for a, b in zip(errors[first].T, errors[second].T, strict=True)]
    for claim, (first, second) in pairs.items()
}

# %% tags=["nbval-ignore-output", "classes"]
write_json(run.new_artifact("fewlabels_verdicts.json"), verdicts)
margins = {
    claim: map(over_draws, 100 * (errors[b] - errors[a]).T) for claim, (a, b) in pairs.items()
}
table = {
    claim: [
        f"{v}: {m.value:+.2f} [{m.low:+.2f}, {m.high:+.2f}]"
        for v, m in zip(verdicts[claim], by_size, strict=True)
    ]
    for claim, by_size in margins.items()
}
title = f"{images.title}: fewer errors? By how many percentage points [95 % interval]"
pd.DataFrame(table, sizes).T.rename_axis(index=title, columns="labels")

# %% [markdown]
# Those verdicts whose margins are wide enough that no rounding turns them:

# %% tags=["classes"]
for name in (best_frozen, "pca_propagation"):
    print(f"goal reached by {name}:", "yes" if intervals[name][0].high <= goal else "no")
for n, first, second in zip(sizes, errors[best_frozen].T, errors[f"{model}_svm"].T, strict=True):
    print(f"{n} labels, propagation beats an SVM on the same codes: {fewer_errors(first, second)}")

# %% [markdown]
# ## Keep the results

# %% tags=["classes"]
kept = [
    "pixels_1nn",
    "pca_svm",
    f"{model}_svm",
    "pca_propagation",
    f"{model}_propagation",
    "finetuned",
    "scratch",
]
for name in kept:
    for n, value in zip(sizes, errors[name].T, strict=True):
        key = f"fewlabels.{name}.{n}.error"
        measured |= {f"{key}_mean": over_draws(value), f"{key}_std": value.std(ddof=1)}

# %% tags=["classes"]
rivals = {
    "Labels spread better along codes than along PCA's components": (
        best_frozen,
        "pca_propagation",
    ),
    "An SVM learns more from codes than from PCA's components": (f"{model}_svm", "pca_svm"),
    "The encoder, trained further, beats the same network from scratch": ("finetuned", "scratch"),
    "… and an SVM on its frozen codes": ("finetuned", f"{model}_svm"),
}
by_size = {
    claim: [
        f"{n:,}: {fewer_errors(x, y)}"
        for n, x, y in zip(sizes, errors[a].T, errors[b].T, strict=True)
    ]
    for claim, (a, b) in rivals.items()
}
claims = [
    (
        f"{claim}: error with {sizes[0]} labels",
        f"fewlabels.{a}.{sizes[0]}.error_mean",
        f"fewlabels.{b}.{sizes[0]}.error_mean",
        "; ".join(by_size[claim]),
    )
    for claim, (a, b) in rivals.items()
]
headline = [name for name in measured if name.endswith("error_mean")]

# %%
reproduced = run.finish(measured, claims, headline)
reproduced

# %% tags=["nbval-ignore-output"]
reproduced.table.rename_axis(columns=images.title)

# %% [markdown]
# **Read next.** The front page of the report puts the verdicts beside those of the other notebooks. On label propagation with very
# few labels: Calder, Cook, Thorpe and Slepčev, "Poisson learning: graph based semi-supervised learning at very low label
# rates", ICML 2020.
