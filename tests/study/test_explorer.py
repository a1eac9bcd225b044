"""The explorer: what stands in its page, and, in a browser without network, what it does."""

import dataclasses
import json
import re
from pathlib import Path

from ae_lib import StudyError, data, metrics, models
from ae_lib.analysis import anomaly, codec, latent
from ae_lib.study import explorer

import keras
import numpy as np
import pytest

SHAPE = 9, 11  # odd sides, so that the convolutional network crops
SIZES = {"test_images": 60, "train_images": 80, "tsne_iterations": 0}
SOURCES = Path(explorer.__file__).with_suffix("")
PATHS = {"dense": "02_train", "conv": "09_train_convolutional", "vae": "11_train_variational"}


def small_networks(bottleneck="linear", latent_dim=4):
    keras.utils.set_random_seed(3)
    pixels = SHAPE[0] * SHAPE[1]
    networks = {
        "dense": models.dense_autoencoder(pixels, (12,), latent_dim, bottleneck),
        "conv": models.convolutional_autoencoder(SHAPE, (2, 3), latent_dim),
        "vae": models.variational_autoencoder(pixels, (12,), latent_dim),
    }
    for network in networks.values():  # biases of 0 would hide that they are left out
        weights = network.autoencoder.get_weights()
        shifted = [w + 0.1 * (w.ndim == 1 and w.dtype == "float32") for w in weights]
        network.autoencoder.set_weights(shifted)
    return networks


def saved(folder, networks):
    for name, network in networks.items():
        path = folder / "artifacts" / PATHS[name] / f"{name}.keras"
        path.parent.mkdir(parents=True, exist_ok=True)
        network.autoencoder.save(path)
    return folder


@pytest.fixture(scope="module")
def images():
    return data.load("digits", image_size=list(SHAPE))


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    """The folder of a small run with all models, and these."""
    folder, networks = tmp_path_factory.mktemp("run"), small_networks()
    saved(folder, networks)
    dense = networks["dense"]
    made = codec.from_autoencoder(dense.encoder, dense.decoder, images.pixels_train, 0.4)
    (folder / "artifacts" / "07_compress_images").mkdir()
    made.save(folder / "artifacts" / explorer.CODEC)
    return folder, networks, made


@pytest.fixture(scope="module")
def written(run, images, tmp_path_factory):
    """The run's page with weights as float32, and with a map by t-SNE."""
    path = tmp_path_factory.mktemp("page") / "explorer.html"
    options = SIZES | {"tsne_iterations": 20}
    return explorer.write(run[0], images, path, precision="float32", **options)


def about(path):
    found = re.search(r'id="about">(.*)</script>', path.read_text(encoding="utf-8"))
    return json.loads(found[1])


# ------------------------------ the page
def test_the_page_is_one_file_that_loads_nothing(written):
    text = written.read_text(encoding="utf-8")
    assert len(text.encode()) < explorer.LIMIT
    assert not re.search(r"<(?:link|iframe|img)|\bsrc=|@import|url\(|https?://", text)


def test_its_sources_stay_short_enough_to_be_read():
    lines = [
        line
        for name in ("explorer.js", "explorer.html.j2")
        for line in (SOURCES / name).read_text(encoding="utf-8").splitlines()
    ]
    assert len(lines) <= 900
    assert [line for line in lines if len(line) > 100] == []


def test_arrays_are_stored_by_the_lowest_bytes_first():
    block = explorer.Block("rounded")
    place = block.add(np.float32([0.5, -0.25]), 0.25)
    assert place == {"at": 0, "n": 2, "bytes": 3, "step": 0.25}
    multiples = np.frombuffer(block.parts[0], "u1").reshape(3, 2).astype(int)
    assert (multiples.T @ [1, 256, 256**2] - 32768).tolist() == [2, -1]
    assert block.add(np.zeros(5, "uint8")) == {"at": 6, "n": 5, "bytes": 1}
    assert explorer.Block("float32").add(np.float32([0.5]), 0.25)["bytes"] == 4


def test_weights_are_rounded_as_far_as_the_tolerance_allows(run, images):
    network = models.load(run[0] / "artifacts" / "02_train" / "dense.keras").autoencoder
    exact, block = network.get_weights()[0].copy(), explorer.Block("rounded")
    assert explorer.round_weights(network, images.x_test[:100], explorer.Block("float32")) == 0
    error = explorer.round_weights(network, images.x_test[:100], block)
    assert explorer.TOLERANCE / 2 < error <= explorer.TOLERANCE
    assert np.abs(network.get_weights()[0] - exact).max() > 0
    assert len(block.steps) == 4


def test_a_run_with_one_model_has_a_page(tmp_path, run, images):
    saved(tmp_path, {"dense": run[1]["dense"]})
    path = explorer.write(tmp_path, images, **SIZES)
    assert path == tmp_path / "explorer.html"
    content = about(path)
    assert list(content["networks"]) == ["dense"]
    assert content["codec"] is None


def test_a_page_that_is_too_large_leaves_parts_out_and_says_so(tmp_path, run, images, monkeypatch):
    monkeypatch.setattr(explorer, "LIMIT", 1000)
    content = about(explorer.write(run[0], images, tmp_path / "page.html", **SIZES))
    assert content["left_out"] == ["vae", "codec", "conv"]
    assert list(content["networks"]) == ["dense"]


def test_a_missing_model_is_one_sentence(tmp_path, images):
    with pytest.raises(StudyError, match=r"dense.keras is missing; expected a finished 02_train"):
        explorer.write(tmp_path, images)


def test_quantiles_of_the_validation_scores_reach_from_the_least_to_the_largest():
    ranks = explorer._ranks(5000)
    assert (len(ranks), ranks[0], ranks[-1]) == (1000, 0, 4999)
    assert explorer._ranks(30).tolist() == list(range(30))


def test_ink_of_the_training_images_is_measured(images):
    x = np.zeros((5, 9, 11), "uint8")
    x[:, 2:8, 3:7] = 255  # six rows, four columns
    box = explorer.drawing_box(dataclasses.replace(images, pixels_train=x.reshape(5, -1)))
    assert box == {"side": 6.0, "centre": pytest.approx([5.0, 5.0])}


# ------------------------------ in a browser
def opened(browser, path, address="", **options):
    """A page without network; what it asked for, and what went wrong, are in its ``seen``."""
    context = browser.new_context(offline=True, **options)
    context.set_default_timeout(180_000)
    page = context.new_page()
    page.seen = []
    page.on("request", lambda request: page.seen.append(request.url))
    page.on("console", lambda message: page.seen.append(message.text))
    page.on("pageerror", lambda error: page.seen.append(str(error)))
    page.goto(path.as_uri() + address)
    page.wait_for_function("window.explorer")
    return page


@pytest.fixture(scope="module")
def shared(browser, written):
    return opened(browser, written, viewport={"width": 1200, "height": 900})


@pytest.fixture
def page(shared):
    shared.evaluate("Object.assign(state, defaults), view.hover = null, render()")
    return shared


def pictures(page, *ids):
    """What the canvases in these elements show, and the text beside them."""
    script = """ids => ids.map(id => [...document.querySelectorAll(`#${id}, #${id} canvas`)]
        .map(e => e.toDataURL ? e.toDataURL() : e.textContent).join())"""
    return page.evaluate(script, list(ids))


def slide(page, selector, value):
    script = "(e, value) => { e.value = value; e.dispatchEvent(new Event('input')); }"
    page.locator(selector).first.evaluate(script, value)


def centre(page, selector):
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def changed(before, after):
    return [one != other for one, other in zip(before, after, strict=True)]


def in_keras(images, content, part="test"):
    x = images.x_test if part == "test" else images.x_train
    return x[content["images"][part]["numbers"]]


@pytest.mark.parametrize("name", [*PATHS, "pca"])
def test_javascript_agrees_with_keras(page, run, images, written, name):
    x = in_keras(images, about(written))
    script = """name => { const model = name === "pca" ? pca : networks[name];
        return Array.from({ length: count }, (_, i) => [...model.decode(model.encode(
        image("test", i)))]) }"""
    got = np.array(page.evaluate(script, name))
    if name == "pca":
        from sklearn.decomposition import PCA

        fitted = PCA(4, svd_solver="covariance_eigh").fit(images.x_train)
        expected = fitted.inverse_transform(fitted.transform(x))
    else:
        expected = models.predict_in_batches(run[1][name].autoencoder, x)
    assert np.abs(got - expected).max() <= 1e-5


def test_rounded_weights_agree_with_keras_within_a_thousandth(browser, run, images, tmp_path):
    path = explorer.write(run[0], images, tmp_path / "page.html", **SIZES)
    page, x = opened(browser, path), in_keras(images, about(path))
    for name, network in run[1].items():
        script = """name => Array.from({ length: count }, (_, i) => [...networks[name].decode(
            networks[name].encode(image("test", i)))])"""
        expected = models.predict_in_batches(network.autoencoder, x)
        assert np.abs(np.array(page.evaluate(script, name)) - expected).max() <= 1e-3
    page.context.close()


def test_it_opens_from_a_file_without_request_and_without_error(page, written):
    assert page.seen == [written.as_uri()]
    ready, decode = page.evaluate("""() => {
        const z = coders.network.encode(image("test", 0)), begin = performance.now();
        for (let i = 0; i < 20; i++) coders.network.decode(z);
        return [explorer.ready, (performance.now() - begin) / 20]; }""")
    print(f"ready after {ready:.0f} ms, a decode takes {decode:.3f} ms")


def test_without_javascript_or_before_it_has_started_it_says_what_it_needs(browser, written):
    page = browser.new_context(offline=True, java_script_enabled=False).new_page()
    page.goto(written.as_uri(), timeout=180_000)
    assert "with JavaScript" in page.inner_text("#fact-models")
    assert not page.locator("main").is_visible()
    page.context.close()


def test_a_page_that_cannot_start_says_so(browser, written, tmp_path):
    broken = tmp_path / "broken.html"
    text = written.read_text(encoding="utf-8")
    broken.write_text(text.replace("new PCA(", "new Pca("), encoding="utf-8")
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(broken.as_uri(), timeout=180_000)
    page.wait_for_function("$('fact-models').textContent.includes('cannot start')", timeout=180_000)
    context.close()


def test_the_map_shows_an_image_under_the_pointer_and_decodes_where_it_is_dragged(page):
    assert page.locator("#legend button").all_text_contents() == list("0123456789")
    before = pictures(page, "inspect")
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    x, y = page.evaluate("view.points[7]")
    page.mouse.move(box["x"] + x, box["y"] + y)
    assert page.inner_text("#inspect-name") == page.evaluate("nameOf(view.hover)")
    hovered = pictures(page, "inspect")
    assert changed(before, hovered) == [True]
    page.mouse.down()
    page.mouse.move(box["x"] + x + 40, box["y"] + y + 5)
    page.mouse.move(box["x"] + x + 60, box["y"] + y + 9)
    page.mouse.up()
    assert page.evaluate("state.at")
    page.mouse.move(box["x"] - 5, box["y"] - 5)
    assert "coordinates" in page.inner_text("#inspect-name")
    assert changed(hovered, pictures(page, "inspect")) == [True]


def test_a_place_on_the_map_of_pca_is_a_code_on_its_two_axes(page, run, images, written):
    x = in_keras(images, about(written))
    codes = models.predict_in_batches(run[1]["dense"].encoder, x)
    from sklearn.decomposition import PCA

    plane = PCA(2, svd_solver="covariance_eigh").fit(codes)
    code = plane.inverse_transform([[0.3, -0.2]])
    page.evaluate("set({ at: '0.3,-0.2' })")
    script = """() => { const { mean, axes } = maps.pca;
        return mean.map((m, i) => m + 0.3 * axes[0][i] - 0.2 * axes[1][i]) }"""
    assert np.allclose(page.evaluate(script), code[0], atol=1e-4)
    assert np.allclose(latent.map_by_pca(codes), plane.transform(codes), atol=1e-4)


def test_the_map_by_tsne_says_that_nothing_leads_back(page):
    page.locator("[data-key=map]").select_option("tsne")
    page.evaluate("set({ at: '0.1,0.1' })")
    assert "No way leads" in page.inner_text("#inspect-name")
    page.locator("[data-key=map]").select_option("pca")  # where that place would be another one
    assert page.evaluate("state.at") == ""


def test_the_map_works_by_keyboard(page):
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    name = page.inner_text("#inspect-name")
    page.keyboard.press("Enter")
    assert page.inner_text("#current-name") == name
    page.keyboard.press("Shift+ArrowLeft")
    assert page.evaluate("spot() !== null")


def test_a_class_of_the_legend_is_emphasised(page):
    before = pictures(page, "map")
    page.locator("#legend button").nth(3).click()
    assert page.locator("#legend [aria-pressed=true]").inner_text() == "3"
    assert changed(before, pictures(page, "map")) == [True]


def test_a_drawing_is_coded_scored_and_classified(page):
    page.locator("#clear").click()
    empty = pictures(page, "drawn", "drawn-code", "drawn-scores")
    x, y = centre(page, "#paper")
    page.mouse.move(x, y - 60)
    page.mouse.down()
    for step in range(12):
        page.mouse.move(x + 3 * step, y - 60 + 10 * step)
    page.mouse.up()
    assert all(changed(empty, pictures(page, "drawn", "drawn-code", "drawn-scores")))
    cells = page.locator("#drawn-scores tbody th, #drawn-scores tbody td").all_inner_texts()
    assert [cells[0], cells[4]] == ["dense network", "PCA"]
    assert all(re.fullmatch(r"[\d.e-]+\np = [\d.]+", cells[n]) for n in (1, 2, 5, 6))
    assert all(re.fullmatch(r"\d", cells[n]) for n in (3, 7))


def test_a_dot_is_drawn(page):
    page.evaluate("set({ strokes: '.VV' })")
    assert page.evaluate("sum(drawing())") > 1


def test_a_drawing_is_made_by_keyboard(page):
    page.locator("#clear").click()
    page.locator("#paper").focus()
    page.keyboard.press(" ")
    for _ in range(5):
        page.keyboard.press("ArrowDown")
    assert page.evaluate("readStrokes()[0].length") == 6
    assert page.inner_text("#pen").startswith("pen down")
    seen = pictures(page, "paper")
    page.keyboard.press("Tab")  # the mark of the pen goes with the focus
    assert page.evaluate("view.pen") is None
    assert changed(seen, pictures(page, "paper")) == [True]


def test_what_is_dragged_from_elsewhere_draws_nothing(page):
    page.locator("#clear").click()
    page.locator("#paper").scroll_into_view_if_needed()
    box = page.locator("#paper").bounding_box()
    page.mouse.move(box["x"] - 8, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 30, box["y"] + 50)
    page.mouse.up()
    assert page.evaluate("state.strokes") == ""


def test_a_drawing_has_the_size_and_centre_of_the_training_images(page, images):
    box = explorer.drawing_box(images)
    x = np.array(page.evaluate("[...drawing()]")).reshape(SHAPE)
    ink = x > 0.02
    assert max(ink.any(axis=1).sum(), ink.any(axis=0).sum()) == pytest.approx(box["side"], abs=1.5)
    right = x.sum(axis=0) @ (np.arange(SHAPE[1]) + 0.5) / x.sum()
    assert right == pytest.approx(box["centre"][0], abs=0.6)


def test_scores_and_p_values_are_those_of_the_notebook(page, run, images, written):
    x, autoencoder = in_keras(images, about(written)), run[1]["dense"].autoencoder
    y, val = (models.predict_in_batches(autoencoder, part) for part in (x, images.x_val))
    script = """score => Array.from({ length: count }, (_, i) => { const x = image("test", i);
        const y = coders.network.decode(coders.network.encode(x));
        const value = score === "squared" ? squaredError(x, y) : relativeError(x, y);
        return [value, pValue(value, scores.network[score])] })"""
    for score, error in {
        "squared": metrics.mse,
        "relative": lambda x, y: anomaly.relative_error(x, y, SHAPE),
    }.items():
        got = np.array(page.evaluate(script, score))
        assert np.allclose(got[:, 0], error(x, y), rtol=1e-4)
        expected = anomaly.p_values(error(x, y), error(images.x_val, val))
        assert np.abs(got[:, 1] - expected).max() <= 0.004  # one image of 300


def test_pca_stands_beside_the_network_in_every_panel(page):
    rows = ["inspect", "drawn", "units-images", "path-now", "class-images", "all-models"]
    for row in [*rows, "bit-images"]:
        captions = page.locator(f"#{row} figcaption").all_inner_texts()
        assert any("PCA" in caption for caption in captions), row


def test_a_slider_moves_its_unit_and_the_component_of_equal_rank(page, written):
    costs = about(written)["codes"]["dense"]["costs"]
    texts = page.locator("#sliders label span").all_inner_texts()
    order = [int(re.match(r"unit (\d+)", text)[1]) - 1 for text in texts]
    assert order == list(np.argsort(-np.array(costs)))
    before = pictures(page, "units-images")
    slide(page, "#sliders input", 100)
    moved = page.evaluate("[...withUnits('network', coders.network.encode(current()))]")
    high = about(written)["codes"]["dense"]["high"][order[0]]
    assert moved[order[0]] == pytest.approx(high, abs=1e-5)
    assert changed(before, pictures(page, "units-images")) == [True]
    page.locator("#reset-units").click()
    assert page.evaluate("state.units") == ""


def test_a_path_leads_from_one_image_to_another(page):
    rows = ["path-now", "path-0", "path-1", "path-2"]
    before = pictures(page, *rows)
    slide(page, "[data-key=t]", 0.9)
    assert changed(before, pictures(page, *rows)) == [True, False, False, False]
    page.locator("[aria-label='next end']").click()
    assert all(changed(before, pictures(page, *rows)))


def test_neighbours_are_the_nearest_of_the_training_images_here(page, run, images, written):
    content = about(written)
    train, x = in_keras(images, content, "train"), in_keras(images, content)
    encoder = run[1]["dense"].encoder
    codes = [models.predict_in_batches(encoder, part) for part in (train, x)]
    got = page.evaluate("nearest(coders.network.encode(image('test', 4)), codes.network.train, 8)")
    assert got == latent.neighbours(*codes, 8)[1][4].tolist()
    rows = ["near-0", "near-1", "near-2"]
    before = pictures(page, *rows)
    page.locator("[aria-label='next test image']").click()
    assert all(changed(before, pictures(page, *rows)))
    assert "80 of 1200 training images" in page.inner_text("#fact-near")


def test_the_direction_between_two_classes_is_added_to_the_code(page, run, images):
    codes = models.predict_in_batches(run[1]["dense"].encoder, images.x_train)
    means = [codes[images.y_train == k].mean(axis=0) for k in (2, 7)]
    got = page.evaluate("[...codes.network.means]")
    assert np.allclose(np.reshape(got, (10, -1))[[2, 7]], means, atol=1e-4)
    before = pictures(page, "class-images")
    page.locator("#to").select_option("7")
    slide(page, "[data-key=amount]", 1.5)
    assert changed(before, pictures(page, "class-images")) == [True]
    assert page.inner_text("#class-amount").startswith("code + 1.5 ×")


def test_the_vae_shows_its_posterior_and_samples_again(page, run, images, written):
    from ae_lib.analysis import variational

    x = in_keras(images, about(written))[:1]
    mean, log_variance = variational.posterior(run[1]["vae"].encoder, x)
    got = page.evaluate("(p => [[...p.mean], [...p.std]])(networks.vae.posterior(current()))")
    assert np.allclose(got, [mean[0], np.exp(log_variance[0] / 2)], atol=1e-5)
    rows = ["resampled", "prior-vae", "prior-pca"]
    before = pictures(page, *rows)
    page.locator("#resample").click()
    assert all(changed(before, pictures(page, *rows)))


def test_all_models_stand_side_by_side_with_their_errors(page):
    captions = page.locator("#all-models figcaption").all_inner_texts()
    names = ("dense network", "convolutional network", "VAE", "PCA")
    assert [caption.split("\n")[0] for caption in captions[2::2]] == list(names)
    assert all("squared error" in caption for caption in captions[2::2])


def test_bits_and_images_are_those_of_the_codec(page, run, images, written):
    made, x = run[2], in_keras(images, about(written))
    script = """index => Array.from({ length: count }, (_, i) => {
        const { bits, image: y } = codec.byNetwork(image("test", i), index);
        return [bits, squaredError(image("test", i), y)] })"""
    coordinates = made.encode(x)
    for index in (2, 15):
        step = float(explorer.STEPS[index])
        symbols = made.quantise(coordinates, step)
        y = made.decode(made.dequantise(symbols, step), step)
        got, rows = np.array(page.evaluate(script, index)), symbols
        same = np.abs(got[:, 0] - made.ideal_bits(rows, step)) < 1e-3
        assert same.mean() > 0.9  # a coordinate on the edge of a bin may fall on either side
        assert np.allclose(got[same, 1], metrics.mse(x, y)[same], atol=1e-5)


def test_more_bits_change_the_images(page):
    before = pictures(page, "bit-images", "bit-means")
    slide(page, "#rate", 0)
    assert all(changed(before, pictures(page, "bit-images", "bit-means")))
    assert page.inner_text("#bit-means").startswith("Means over the 60 test images here")


def test_the_address_holds_the_whole_state(page, browser, written):
    changes = {"image": "draw", "other": "5", "t": "0.3", "units": "1_80", "amount": "0.5"}
    changes |= {
        "from": "3",
        "to": "4",
        "seed": "6",
        "rate": "9",
        "strokes": "AAzz.Bc__",
        "only": "2",
    }
    page.evaluate("changes => set(changes)", changes)
    page.wait_for_function("location.hash.includes('strokes=AAzz.Bc__')")
    rows = [
        "current",
        "drawn",
        "units-images",
        "path-now",
        "class-images",
        "resampled",
        "bit-images",
    ]
    again = opened(browser, written, page.evaluate("location.hash"), viewport=page.viewport_size)
    assert {key: again.evaluate("state")[key] for key in changes} == changes
    assert pictures(again, *rows) == pictures(page, *rows)
    again.context.close()


def test_an_address_that_makes_no_sense_is_harmless(browser, written):
    address = "#image=999&other=x&map=none&at=a,b&rate=-4&strokes=!&units=9_z.0_y.1_900&only=99"
    page = opened(browser, written, address + "&t=a&amount=1e9&from=draw&seed=draw")
    assert page.evaluate("[state.t, state.amount, state.only, moved().size]") == ["0", "2", "", 0]
    page.evaluate("location.hash = 'map=constructor&other=draw&rate=draw'")
    page.wait_for_function("state.rate === '0'")
    assert page.evaluate("[state.map, state.other]") == ["pca", "0"]
    assert "NaN" not in page.inner_text("body")
    page.evaluate("address => { location.hash = address }", address)
    page.wait_for_function("state.image === '59'")
    assert page.evaluate("[state.image, state.other, state.map, state.rate]") == [
        "59",
        "0",
        "pca",
        "0",
    ]
    assert (
        page.seen == [page.url.replace(page.evaluate("location.hash"), "")] or len(page.seen) == 1
    )
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_phone_and_desk_and_is_accessible(browser, written, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.base").AXE_SCRIPT
    size = {"width": width, "height": 850}
    page = opened(browser, written, viewport=size, color_scheme=scheme, has_touch=width == 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    captions = """[...document.querySelectorAll("figcaption")].filter(
        (e) => e.scrollWidth > e.clientWidth).map((e) => e.textContent)"""
    assert page.evaluate(captions) == []
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    grave = [
        (f["id"], f["nodes"][0]["html"]) for f in found if f["impact"] in ("serious", "critical")
    ]
    assert grave == []
    page.context.close()


def test_a_finger_draws_and_points(browser, written):
    page = opened(
        browser, written, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True
    )
    before = pictures(page, "current", "drawn")
    page.locator("#map").scroll_into_view_if_needed()
    page.locator("#map").tap(position=dict(zip("xy", page.evaluate("view.points[9]"), strict=True)))
    page.locator("#paper").scroll_into_view_if_needed()
    page.locator("#paper").tap(position={"x": 40, "y": 40})
    assert all(changed(before, pictures(page, "current", "drawn")))
    page.context.close()


# ------------------------------ other runs
@pytest.mark.parametrize(("bottleneck", "latent_dim"), [("linear", 1), ("relu", 4)])
def test_other_codes_and_images_without_labels(browser, tmp_path, images, bottleneck, latent_dim):
    network = small_networks(bottleneck, latent_dim)["dense"]
    saved(tmp_path, {"dense": network})
    parts = {name: np.zeros_like(getattr(images, name)) for name in ("y_train", "y_val", "y_test")}
    assert explorer._pca(network, images.x_train[:50], None)[1].shape == (latent_dim, 99)
    unlabelled = dataclasses.replace(images, classes=np.array(["images"]), **parts)
    path = explorer.write(tmp_path, unlabelled, precision="float32", **SIZES)
    page = opened(browser, path)
    assert len(page.seen) == 1
    assert page.locator("#classes .instead").is_visible()
    assert page.locator("#vae .instead").is_visible()
    assert page.locator("#bits .instead").is_visible()
    assert page.locator("#legend button").count() == 0
    assert "Classes form groups" not in page.inner_text("main")
    assert page.locator("#sliders input").count() == latent_dim
    x = in_keras(images, about(path))[:1]
    got = page.evaluate("[...coders.network.decode(coders.network.encode(image('test', 0)))]")
    expected = models.predict_in_batches(network.autoencoder, x)[0]
    assert np.abs(np.array(got) - expected).max() <= 1e-5
    page.context.close()
