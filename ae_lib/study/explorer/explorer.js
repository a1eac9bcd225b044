"use strict";
// The trained models, run in plain JavaScript, and the panels that show what they do. An image is
// an array of pixels in [0, 1], row by row; maps of convolutions have channels last, as in Keras.
// ---------------------------------------------------------------- what the page holds
const $ = (id) => document.getElementById(id);
const about = JSON.parse($("about").textContent);
const [height, width] = about.shape, pixels = height * width;

async function unpack() {
  const text = $("block").textContent.trim().replaceAll("v", "<"); // Ascii85 of gzip
  const size = Math.floor((text.length * 4) / 5), packed = new DataView(new ArrayBuffer(size + 4));
  for (let i = 0, word; i < 5 * Math.ceil(text.length / 5); i++) {
    word = (i % 5 ? 85 * word : 0) + (text.charCodeAt(i) || 117) - 33; // 117 past the end
    if (i % 5 === 4) packed.setUint32(((i - 4) / 5) * 4, word);
  }
  const whole = new Blob([packed.buffer.slice(0, size)]).stream();
  const stream = whole.pipeThrough(new DecompressionStream("gzip"));
  bytes = new Uint8Array(await new Response(stream).arrayBuffer());
}

// Bytes, float32, or multiples of a step that count from −32,768; all lowest bytes come first.
function stored({ at, n, bytes: size, step }) {
  if (size === 1) return bytes.subarray(at, at + n);
  const values = new Float32Array(n), words = new Int32Array(values.buffer);
  for (let i = 0; i < n; i++) {
    const word = bytes[at + i] | (bytes[at + n + i] << 8) | (bytes[at + 2 * n + i] << 16);
    if (step) values[i] = (((word << 8) >> 8) - 32768) * step;
    else words[i] = word | (bytes[at + 3 * n + i] << 24);
  }
  return values;
}

// ---------------------------------------------------------------- layers
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const activations = { linear: (x) => x, relu: (x) => Math.max(x, 0), sigmoid };

function dense(x, { weights: [matrix, bias] }) {
  const y = Float64Array.from(bias), d = y.length;
  for (let i = 0; i < x.length; i++) {
    const value = x[i];
    if (value === 0) continue;
    for (let j = 0, at = i * d; j < d; j++, at++) y[j] += value * matrix[at];
  }
  return y;
}

// Of rows or columns; TensorFlow's "same": what is odd goes to the end.
const padding = (large, small, kernel, stride) =>
  Math.max((small - 1) * stride + kernel - large, 0) >> 1;

// Convolution goes from the larger map to the smaller one, its transpose (``back``) returns.
function convolve(x, layer, back = false) {
  const { in: from, out: to, kernel: [kh, kw], stride, weights: [filters, bias] } = layer;
  const [[H, W], [h, w]] = back ? [to, from] : [from, to], n = from[2], m = to[2];
  const top = padding(H, h, kh, stride), left = padding(W, w, kw, stride);
  const y = new Float64Array(to[0] * to[1] * m);
  for (let i = 0; i < y.length; i++) y[i] = bias[i % m];
  for (let i = 0; i < h; i++) for (let j = 0; j < w; j++) for (let tap = 0; tap < kh * kw; tap++) {
    const row = i * stride + Math.floor(tap / kw) - top, column = j * stride + tap % kw - left;
    if (row < 0 || row >= H || column < 0 || column >= W) continue;
    const large = row * W + column, small = i * w + j;
    if (back) for (let o = 0; o < m; o++) {
      let total = 0;
      for (let c = 0; c < n; c++) total += x[small * n + c] * filters[(tap * m + o) * n + c];
      y[large * m + o] += total;
    } else for (let c = 0; c < n; c++) {
      const value = x[large * n + c];
      if (value === 0) continue;
      for (let o = 0; o < m; o++) y[small * m + o] += value * filters[(tap * n + c) * m + o];
    }
  }
  return y;
}

const cropped = (x, { in: [, W, m], out: [h, w] }) => Float64Array.from({ length: h * w * m },
  (_, i) => x[Math.floor(i / (w * m)) * W * m + i % (w * m)]);
const transposed = (x, layer) => convolve(x, layer, true);
const kinds = { Dense: dense, Conv2D: convolve, Conv2DTranspose: transposed, Cropping2D: cropped };
const loaded = (layers) => layers.map((l) => ({ ...l, weights: l.weights.map(stored) }));

function run(layers, x) {
  for (const layer of layers) x = kinds[layer.kind](x, layer).map(activations[layer.activation]);
  return x;
}

// ---------------------------------------------------------------- models
const plus = (x, y, factor = 1) => Float64Array.from(x, (value, i) => value + factor * y[i]);
const between = (x, y, t) => Float64Array.from(x, (value, i) => (1 - t) * value + t * y[i]);
const sum = (x) => x.reduce((total, value) => total + value, 0);
const clip = (value, low, high) => Math.min(Math.max(value, low), high);

class Network {
  constructor({ encoder, decoder, latent_dim, variational }) {
    Object.assign(this, { latent_dim, variational });
    this.layers = { encoder: loaded(encoder), decoder: loaded(decoder) };
  }
  encode(x) { return run(this.layers.encoder, x).subarray(0, this.latent_dim); }
  decode(z) { return run(this.layers.decoder, z); }
  posterior(x) { // mean and standard deviation of each unit
    const both = run(this.layers.encoder, x), logs = both.subarray(this.latent_dim);
    return { mean: both.subarray(0, this.latent_dim), std: logs.map((v) => Math.exp(v / 2)) };
  }
}

class PCA {
  constructor({ mean, components }, latent_dim) {
    Object.assign(this, { latent_dim, mean: stored(mean), components: stored(components) });
  }
  encode(x, count = this.latent_dim) {
    const z = new Float64Array(count);
    for (let k = 0, at = 0; k < count; k++) for (let i = 0; i < pixels; i++, at++) {
      z[k] += this.components[at] * (x[i] - this.mean[i]);
    }
    return z;
  }
  decode(z, gain = 1) {
    const y = Float64Array.from(this.mean);
    for (let k = 0, at = 0; k < z.length; k++) for (let i = 0; i < pixels; i++, at++) {
      y[i] += gain * z[k] * this.components[at];
    }
    return y;
  }
}

// ---------------------------------------------------------------- scores
const squared = (x, y) => x.reduce((total, value, i) => total + (value - y[i]) ** 2, 0);
const squaredError = (x, y) => squared(x, y) / pixels;

const bell = Float64Array.from({ length: 9 }, (_, i) => Math.exp(-((i - 4) ** 2) / 2));
function smooth(x, lines, length, across, along) { // along one axis, by a Gaussian of one pixel
  const y = new Float64Array(x.length), total = sum(bell);
  for (let i = 0; i < lines; i++) for (let j = 0; j < length; j++) for (let k = -4; k <= 4; k++) {
    const place = (j + k + 8 * length) % (2 * length); // mirrored at the ends
    const at = place < length ? place : 2 * length - 1 - place;
    y[i * across + j * along] += bell[k + 4] / total * x[i * across + at * along];
  }
  return y;
}

function relativeError(x, y) {
  const rows = smooth(plus(y, x, -1), height, width, width, 1);
  return sum(smooth(rows, width, height, 1, width).map((v) => v ** 2)) / Math.max(sum(x), 1);
}

// Conformal: the share of validation images that are as strange, rounded up between quantiles.
function pValue(score, values) {
  const { ranks, validated_on: n } = about, place = values.findIndex((value) => value >= score);
  const asStrange = place < 0 ? 0 : place === 0 ? n : n - ranks[place - 1] - 1;
  return (1 + asStrange) / (n + 1);
}

function nearest(point, rows, k) { // indices of rows, nearest first
  const d = point.length, distances = new Float64Array(rows.length / d);
  for (let i = 0, at = 0; i < distances.length; i++) for (let j = 0; j < d; j++, at++) {
    distances[i] += (rows[at] - point[j]) ** 2;
  }
  return [...distances.keys()].sort((a, b) => distances[a] - distances[b]).slice(0, k);
}

function normalNumbers(seed) { // by Box and Muller, from a linear congruential generator
  let number = seed * 2654435761 % 2 ** 32;
  const uniform = () => {
    number = (1664525 * number + 1013904223) % 2 ** 32;
    return (number + 0.5) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

// ---------------------------------------------------------------- the codec
class Codec {
  constructor(parts) {
    Object.assign(this, parts);
    [this.last] = loaded([this.coordinates]);
    this.layers = loaded(this.decoder);
  }
  bin(cell, step) { // how many steps from 0; bins begin at whole cells, as in Python
    const edge = (k) => Math.floor((k - this.rounding) * step / this.cell + 0.5);
    let k = Math.floor(Math.abs(cell) * this.cell / step + this.rounding) + 2;
    while (k > 0 && (cell >= 0 ? edge(k) > cell : cell >= -edge(k))) k--;
    return cell >= 0 ? k : -k;
  }
  quantise(coordinates, first, { step, counts, ...places }) {
    const values = stored(places.values), lengths = stored(places.lengths);
    let bits = 0, start = 0;
    const z = coordinates.map((value, i) => {
      const bin = this.bin(Math.floor(value / this.cell), step) - this.bin(first[i], step);
      const place = start + clip(bin, 0, counts[i] - 1);
      start += counts[i];
      bits += lengths[place];
      return values[place];
    });
    return { z, bits };
  }
  byNetwork(x, index) {
    const { first, steps } = this.rates, step = steps[index];
    const coordinates = dense(coders.network.encode(x), this.last);
    const { z, bits } = this.quantise(coordinates, first, step);
    const extended = new Float64Array(this.layers[0].in[0]).fill(Math.log(step.step));
    extended.set(z);
    return { bits, image: run(this.layers, extended), mean: step };
  }
  byPCA(x, index) { // at a step at which the mean bits are equal
    const { first, steps } = this.pca, step = steps[index];
    const { z, bits } = this.quantise(pca.encode(x, first.length), first, step);
    return { bits, image: pca.decode(z, this.gain).map((v) => clip(v, 0, 1)), mean: step };
  }
}

// ---------------------------------------------------------------- all that was trained
let bytes, networks, coders, pca, codec, images, codes, scores, maps, count, trainPixels;
const each = (parts, change) =>
  Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, change(part)]));

function load() {
  networks = each(about.networks, (part) => new Network(part));
  pca = new PCA(about.pca, about.codes.pca.mean.length);
  coders = { network: networks[about.model], pca };
  images = each(about.images, (part) => ({ ...part, pixels: stored(part.pixels) }));
  trainPixels = Float32Array.from(images.train.pixels, (value) => value / 255);
  count = images.test.numbers.length;
  const both = (parts) => ({ network: parts[about.model], pca: parts.pca });
  codes = each(both(about.codes),
    (part) => ({ ...part, train: stored(part.train), means: stored(part.means) }));
  scores = each(both(about.scores), (part) => each(part, stored));
  maps = each(about.maps, (part) => ({ ...part, points: stored(part.points) }));
  codec = about.codec && new Codec(about.codec);
}

const image = (part, i) =>
  Float64Array.from(images[part].pixels.subarray(i * pixels, (i + 1) * pixels), (v) => v / 255);
const className = (part, i) => (about.labelled ? about.classes[images[part].labels[i]] : "");
const nameOf = (i) => `test image ${images.test.numbers[i]}` +
  (about.labelled ? ` (class ${className("test", i)})` : "");
const labels = { dense: "dense network", conv: "convolutional network", vae: "VAE", pca: "PCA" };
const label = (name) => (name === "network" ? label(about.model) : labels[name] ?? name);

// ---------------------------------------------------------------- the state, kept in the address
const defaults = {
  image: "0", other: "1", // of the test images, or "draw"; the end of the path
  map: "pca", at: "", only: "", // which map, a place on it, the class that is emphasised
  units: "0_95", // rank and place of each slider that was moved
  t: "0.5", from: "0", to: "1", amount: "1", seed: "1", rate: "9",
  strokes: "VRjQyQ.yQsYmhgqdz", // two letters for a point, a dot between strokes
};
const state = { ...defaults }, panels = [];
const panel = (keys, draw) => panels.push({ keys, draw });
const isDrawn = () => state.image === "draw";
const current = () => (isDrawn() ? drawing() : image("test", Number(state.image)));

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1)), classes = about.classes.length;
  for (const key in defaults) state[key] = given.get(key) ?? defaults[key];
  const rate = codec ? codec.rates.steps.length : 1;
  const ends = { image: count, other: count, from: classes, to: classes, seed: 1e9, rate };
  for (const [key, end] of Object.entries(ends)) if (key !== "image" || !isDrawn()) {
    state[key] = `${clip(Math.trunc(state[key]) || 0, 0, end - 1)}`;
  }
  for (const [key, low, high] of [["t", 0, 1], ["amount", -1, 2]])
    state[key] = `${clip(Number(state[key]) || 0, low, high)}`;
  if (!Object.hasOwn(maps, state.map)) state.map = "pca";
  if (!(state.only in about.classes)) state.only = "";
}

let saving;
function set(changes) {
  Object.assign(state, changes);
  render(Object.keys(changes));
  clearTimeout(saving); // browsers allow few changes of the address in a second
  saving = setTimeout(() => {
    const changed = Object.entries(state).filter(([key, value]) => value !== defaults[key]);
    history.replaceState(null, "", "#" + new URLSearchParams(changed));
  }, 150);
}

function render(changed = Object.keys(defaults)) {
  document.querySelectorAll("[data-key]").forEach((e) => { e.value = state[e.dataset.key]; });
  for (const { keys, draw } of panels) if (keys.some((key) => changed.includes(key))) draw();
}

// ---------------------------------------------------------------- pictures
const short = (value) => Number(value.toPrecision(3)).toString();
const say = (id, text) => { $(id).textContent = text; };
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function make(tag, properties = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Grey values, or signed differences: orange is added ink, blue is missing ink.
const palette = (colour) => Uint32Array.from({ length: 256 }, (_, i) => {
  const [red, green, blue] = colour(i / 255).map(Math.round);
  return (255 << 24) | (blue << 16) | (green << 8) | red;
});
const palettes = {
  grey: palette((v) => [255 * v, 255 * v, 255 * v]),
  error: palette((v) => (v > 0.5 ? [213, 94, 0] : [0, 90, 170]).map((end) =>
    247 + Math.abs(2 * v - 1) * (end - 247))),
};

function paint(canvas, values, kind = "grey") {
  const data = new ImageData(width, height), words = new Uint32Array(data.data.buffer);
  values.forEach((value, i) => {
    const level = kind === "error" ? 0.5 + value / 1.2 : value; // the ends are at ± 0.6
    words[i] = palettes[kind][Math.round(255 * clip(level, 0, 1))];
  });
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(data, 0, 0);
}

// Puts pictures into a row: [caption, pixels, second line, "error" for a difference].
function show(id, pictures) {
  const row = $(id);
  while (row.children.length > pictures.length) row.lastChild.remove();
  while (row.children.length < pictures.length) {
    const text = make("figcaption", {}, [make("span"), make("small")]);
    row.append(make("figure", {}, [make("canvas", { role: "img" }), text]));
  }
  pictures.forEach(([caption, values, note = "", kind], n) => {
    const [canvas, text] = row.children[n].children;
    canvas.ariaLabel = `${caption || "picture"} ${note}`.trim();
    text.firstChild.textContent = caption;
    text.lastChild.textContent = note;
    paint(canvas, values, kind);
  });
}

const difference = (name, x, y, note) => [name, plus(y, x, -1), note, "error"];
const withErrors = (x, pairs, name = "image") => [[name, x], ["", x], // reconstruction, error, …
  ...pairs.flatMap(([of, y]) => [[of, y, `squared error ${short(squaredError(x, y))}`],
    difference("error", x, y, `relative error ${short(relativeError(x, y))}`)])];
const reconstructions = (x, models = coders) =>
  Object.entries(models).map(([name, model]) => [label(name), model.decode(model.encode(x))]);

function surface(canvas) { // a canvas, to be drawn on in CSS pixels
  const ratio = devicePixelRatio || 1, [w, h] = [canvas.clientWidth, canvas.clientHeight];
  Object.assign(canvas, { width: w * ratio, height: h * ratio });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return [context, w, h];
}

function bars(id, means, spreads = []) { // with ± one standard deviation
  const [context, w, h] = surface($(id)), gap = w / means.length;
  const reach = Math.max(...means.map((mean, i) => Math.abs(mean) + (spreads[i] ?? 0)), 1e-9);
  const y = (value) => h / 2 - (value / reach) * (h / 2 - 4);
  const box = (colour, x, wide, from, to) => {
    context.fillStyle = css(colour);
    context.fillRect(x, Math.min(y(from), y(to)), wide, Math.abs(y(from) - y(to)) || 1);
  };
  box("--line", 0, w, 0, 0);
  means.forEach((mean, i) => {
    box("--accent", (i + 0.2) * gap, 0.6 * gap, 0, mean);
    if (spreads[i]) box("--c5", (i + 0.5) * gap - 1, 2, mean - spreads[i], mean + spreads[i]);
  });
  $(id).ariaLabel = `${means.length} units, from ${short(Math.min(...means))} to ` +
    short(Math.max(...means));
}

// ---------------------------------------------------------------- the current image
panel(["image", "strokes"], () => {
  show("current", [["current image", current()]]);
  say("current-name", isDrawn() ? "your drawing" : nameOf(Number(state.image)));
  $("use-drawing").ariaPressed = isDrawn();
});

function step(key, by) { // to another test image; without a number, to any
  const from = isDrawn() && key === "image" ? 0 : Number(state[key]);
  const to = by ? (from + Number(by) + count) % count : Math.floor(Math.random() * count);
  set({ [key]: String(to), ...(key === "image" && { at: "" }) });
}

// ---------------------------------------------------------------- the map
const view = { hover: null, points: [] }, shapes = ["●", "▲", "■"];
const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const spot = () => { // the place on the map that is decoded
  const pair = state.at.split(",").map(Number);
  return pair.length === 2 && pair.every(Number.isFinite) ? pair : null;
};

function placePoints(w, h) {
  const both = [0, 1].map((axis) => maps[state.map].points.filter((_, i) => i % 2 === axis));
  const lows = both.map((values) => Math.min(...values));
  const spans = both.map((values, axis) => Math.max(...values) - lows[axis] || 1);
  const scale = Math.min((w - 40) / spans[0], (h - 40) / spans[1]);
  const [left, below] = [(w - scale * spans[0]) / 2, (h + scale * spans[1]) / 2];
  view.toScreen = ([x, y]) => [left + scale * (x - lows[0]), below - scale * (y - lows[1])];
  view.toMap = ([x, y]) => [lows[0] + (x - left) / scale, lows[1] + (below - y) / scale];
  view.points = Array.from(both[0], (x, i) => view.toScreen([x, both[1][i]]));
}

function drawMap() {
  const [context, w, h] = surface($("map"));
  const colours = Array.from({ length: 7 }, (_, i) => css(`--c${i}`));
  placePoints(w, h);
  Object.assign(context, { font: "10px sans-serif", textAlign: "center", textBaseline: "middle" });
  view.points.forEach(([x, y], i) => {
    const k = about.labelled ? images.test.labels[i] : 0;
    context.globalAlpha = state.only && state.only !== String(k) ? 0.12 : 0.85;
    context.fillStyle = colours[k % 7];
    context.fillText(shapes[k % 3], x, y);
  });
  Object.assign(context, { globalAlpha: 1, strokeStyle: css("--ink"), lineWidth: 2 });
  const rings = [[view.hover, 5], [isDrawn() ? null : Number(state.image), 8]];
  for (const [index, radius] of rings) if (index !== null) {
    context.beginPath();
    context.arc(...view.points[index], radius, 0, 7);
    context.stroke();
  }
  if (!spot()) return;
  const [x, y] = view.toScreen(spot());
  context.strokeRect(x - 10, y, 20, 0);
  context.strokeRect(x, y - 10, 0, 20);
}

function closest([x, y]) {
  const far = view.points.map(([a, b]) => (a - x) ** 2 + (b - y) ** 2);
  return far.indexOf(Math.min(...far));
}

function inspectPlace([x, y]) {
  const { mean, axes } = maps[state.map], near = closest(view.toScreen([x, y]));
  const real = image("test", near);
  const code = axes ? Float64Array.from(mean, (m, i) => m + x * axes[0][i] + y * axes[1][i])
    : coders.network.encode(real);
  const decoded = coders.network.decode(code), [, ofPCA] = reconstructions(real);
  show("inspect", [["nearest test image", real], ["", real], ["decoded from here", decoded],
    difference("minus the nearest", real, decoded), ["PCA of the nearest", ofPCA[1]],
    difference("error", real, ofPCA[1])]);
  say("inspect-name", axes
    ? "A place is decoded from its coordinates on the two axes, with the mean on all others."
    : "No way leads from a t-SNE map back to codes: the nearest image's code is decoded.");
}

function inspect() {
  if (spot() && view.hover === null) return inspectPlace(spot());
  const i = view.hover ?? Number(state.image), x = i >= 0 ? image("test", i) : drawing();
  show("inspect", withErrors(x, reconstructions(x)));
  say("inspect-name", i >= 0 ? nameOf(i) : "your drawing");
}

panel(["map", "at", "only", "image", "strokes"], () => {
  drawMap();
  inspect();
  for (const button of $("legend").children) button.ariaPressed = state.only === button.value;
  say("map-note", state.map === "pca" ? "Drag to decode the places between the marks." +
    (maps.pca.units > 1 ? "" : " The code is one number, across; the heights are random.")
    : "Neighbours here are neighbours in the code; distances mean little.");
});

function hover(index, changes) { // a mark or none
  view.hover = index;
  if (changes) return set(changes);
  drawMap();
  inspect();
}
const decodeAt = (point) => hover(null, { at: view.toMap(point).map(short).join(",") });
const choose = (index) => hover(null, { image: String(index), at: "" });

function nextMark(here, way) { // in the direction of an arrow
  for (let far = 6; far < 600; far += 6) {
    const index = closest(view.points[here].map((v, i) => v + far * way[i]));
    if (index !== here) return index;
  }
  return here;
}

function startMap() {
  const canvas = $("map"), place = (event) => [event.offsetX, event.offsetY];
  let from = null, dragged = false;
  canvas.onpointerdown = (event) => {
    [from, dragged] = [place(event), false];
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (event) => {
    const point = place(event);
    if (!from) return hover(closest(point));
    dragged ||= Math.hypot(point[0] - from[0], point[1] - from[1]) > 4;
    if (dragged) decodeAt(point);
  };
  canvas.onpointerup = (event) => {
    if (from && !dragged) choose(closest(place(event)));
    from = null;
  };
  canvas.onpointercancel = () => { from = null; };
  canvas.onpointerleave = canvas.onblur = () => hover(null);
  canvas.onkeydown = (event) => {
    const here = view.hover ?? (isDrawn() ? 0 : Number(state.image)), way = arrows[event.key];
    if (event.key === "Enter") choose(here);
    if (!way) return;
    event.preventDefault();
    const point = spot() ? view.toScreen(spot()) : view.points[here];
    if (event.shiftKey) decodeAt(point.map((v, i) => v + 8 * way[i]));
    else hover(nextMark(here, way));
  };
  if (about.labelled) about.classes.forEach((name, k) => {
    const button = make("button", { type: "button", value: String(k), textContent: name });
    button.dataset.mark = shapes[k % 3];
    button.style.setProperty("--mark", `var(--c${k % 7})`);
    button.onclick = () => set({ only: state.only === String(k) ? "" : String(k) });
    $("legend").append(button);
  });
  new ResizeObserver(drawMap).observe(canvas);
}

// ---------------------------------------------------------------- drawing
const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const pen = Math.max(height, width) / 12, size = [width, height];
const fine = 8; // so many rows and columns for a pixel, which are averaged
const sheet = make("canvas", { width: fine * width, height: fine * height });

const readStrokes = () => state.strokes.split(".").filter((s) => s.length > 1).map((stroke) =>
  Array.from({ length: stroke.length >> 1 }, (_, i) => size.map((side, axis) =>
    (letters.indexOf(stroke[2 * i + axis]) + 0.5) / 64 * side)));

function trace(context, strokes, colour = "#fff") {
  Object.assign(context, { lineWidth: pen, lineCap: "round", lineJoin: "round" });
  context.strokeStyle = colour;
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(stroke[0][0] - 1e-3, stroke[0][1]); // what has no length is not drawn
    stroke.forEach(([x, y], i) => {
      const [a, b] = stroke[i + 1] ?? [x, y];
      context.quadraticCurveTo(x, y, (x + a) / 2, (y + b) / 2);
    });
    context.lineTo(...stroke.at(-1));
    context.stroke();
  }
}

function rasterised(strokes, factor, [right, down]) {
  const context = sheet.getContext("2d", { willReadFrequently: true });
  context.resetTransform();
  context.clearRect(0, 0, sheet.width, sheet.height);
  context.setTransform(fine * factor, 0, 0, fine * factor, fine * right, fine * down);
  trace(context, strokes);
  const { data } = context.getImageData(0, 0, sheet.width, sheet.height);
  const x = new Float64Array(pixels);
  for (let i = 0; i < data.length / 4; i++) {
    const row = Math.floor(i / sheet.width / fine), column = Math.floor(i % sheet.width / fine);
    x[row * width + column] += data[4 * i + 3] / 255 / fine ** 2;
  }
  return x.map((value) => Math.min(value, 1));
}

// As MNIST was made: the longer side is scaled to that of the training images (20 of MNIST's 28
// pixels), and the centre of mass moved to where theirs is, as far as all ink stays inside.
function preprocessed(strokes) {
  if (!strokes.length) return new Float64Array(pixels);
  const box = size.map((_, axis) => {
    const values = strokes.flat().map((point) => point[axis]);
    return [Math.min(...values) - pen / 2, Math.max(...values) + pen / 2];
  });
  const factor = about.drawing.side / Math.max(...box.map(([low, high]) => high - low));
  const middle = box.map(([low, high], axis) => (size[axis] - factor * (low + high)) / 2);
  const x = rasterised(strokes, factor, middle), mass = sum(x) || 1;
  const centre = [(i) => i % width, (i) => Math.floor(i / width)].map((along) =>
    sum(x.map((value, i) => value * (along(i) + 0.5))) / mass);
  return rasterised(strokes, factor, middle.map((shift, axis) => {
    const free = Math.max(size[axis] - factor * (box[axis][1] - box[axis][0]), 0) / 2;
    return shift + clip(about.drawing.centre[axis] - centre[axis], -free, free);
  }));
}

let last = {};
function drawing() {
  const { strokes } = state;
  if (last.strokes !== strokes) last = { strokes, x: preprocessed(readStrokes()) };
  return last.x;
}

function vote(indices) { // the most frequent class; of several the first
  const votes = about.classes.map(() => 0);
  for (const i of indices) votes[images.train.labels[i]]++;
  return about.classes[votes.indexOf(Math.max(...votes))];
}

function scoreCells(name, x) {
  const y = coders[name].decode(coders[name].encode(x));
  const values = { squared: squaredError(x, y), relative: relativeError(x, y) };
  const cells = Object.entries(values).map(([score, value]) =>
    `${short(value)}\np = ${short(pValue(value, scores[name][score]))}`);
  const near = nearest(coders[name].encode(x), codes[name].train, 5);
  return [label(name), ...cells, about.labelled ? vote(near) : "–"];
}

panel(["strokes", "pen"], () => {
  const [context, w, h] = surface($("paper"));
  context.fillRect(0, 0, w, h);
  context.scale(w / width, h / height);
  trace(context, readStrokes());
  if (view.pen) trace(context, [[view.pen]], "#e58900");
});

panel(["strokes"], () => {
  const x = drawing();
  show("drawn", withErrors(x, reconstructions(x), "as the models get it"));
  bars("drawn-code", [...coders.network.encode(x)]);
  $("drawn-scores").tBodies[0].replaceChildren(...Object.keys(coders).map((name) => make("tr", {},
    scoreCells(name, x).map((text, n) => make(n ? "td" : "th", { textContent: text })))));
});

function startPaper() {
  const canvas = $("paper");
  let isDown = false, cursor = [32, 32];
  const showPen = (at) => { view.pen = at; render(["pen"]); }; // where arrows have led, or null
  const add = (place) => {
    const point = place.map((v) => letters[clip(Math.floor(v), 0, 63)]).join("");
    if (!state.strokes.endsWith(point)) set({ strokes: state.strokes + point });
  };
  const begin = (place) => { state.strokes += "."; add(place); };
  const place = ({ offsetX, offsetY }) =>
    [offsetX / canvas.clientWidth * 64, offsetY / canvas.clientHeight * 64];
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    showPen(null);
    begin(place(event));
  };
  canvas.onpointermove = (e) => { if (canvas.hasPointerCapture(e.pointerId)) add(place(e)); };
  canvas.onblur = () => showPen(null);
  canvas.onkeydown = (event) => {
    const way = arrows[event.key];
    if (event.key === " ") {
      isDown = !isDown;
      if (isDown) begin(cursor);
    } else if (way) {
      cursor = cursor.map((v, i) => clip(v + 2 * way[i], 1, 62));
      if (isDown) add(cursor);
    } else return;
    event.preventDefault();
    showPen(cursor.map((v, i) => (v + 0.5) / 64 * size[i]));
    const [across, down] = cursor.map((v) => Math.round(v / 0.64));
    say("pen", `pen ${isDown ? "down" : "up"}, ${across} % across, ${down} % down`);
  };
  $("clear").onclick = () => set({ strokes: "" });
  $("use-drawing").onclick = () => set({ image: isDrawn() ? "0" : "draw", at: "" });
}

// ---------------------------------------------------------------- the units of the code
const moved = () => new Map(state.units.split(".").map((part) => part.split("_").map(Number))
  .filter(([, place]) => place >= 0 && place <= 100));

function withUnits(name, z) { // unit and component of equal rank move to equal places
  const { order, low, high } = codes[name], changed = Float64Array.from(z);
  for (const [rank, place] of moved()) {
    const unit = order[rank];
    if (unit >= 0) changed[unit] = low[unit] + place / 100 * (high[unit] - low[unit]);
  }
  return changed;
}

panel(["image", "strokes", "units"], () => {
  const x = current(), z = coders.network.encode(x), changed = withUnits("network", z);
  show("units-images", Object.entries(coders).flatMap(([name, coder]) => {
    const before = coder.encode(x), after = coder.decode(withUnits(name, before));
    return [[label(name), after, "units moved"],
      difference("change", coder.decode(before), after)];
  }));
  const { order, low, high } = codes.network;
  $("sliders").querySelectorAll("input").forEach((input, rank) => {
    const unit = order[rank], value = changed[unit];
    input.value = 100 * (value - low[unit]) / (high[unit] - low[unit] || 1);
    input.ariaValueText = input.nextSibling.textContent = short(value);
  });
});

function startUnits() {
  const { order, costs, low, high } = codes.network;
  order.forEach((unit, rank) => {
    const input = make("input", { type: "range", disabled: high[unit] <= low[unit] });
    input.oninput = () => {
      const all = moved().set(rank, input.value);
      set({ units: [...all].map((pair) => pair.join("_")).join(".") });
    };
    const text = make("span", { textContent: `unit ${unit + 1}, costs ${short(costs[unit])}` });
    $("sliders").append(make("label", {}, [text, input, make("output")]));
  });
  $("reset-units").onclick = () => set({ units: "" });
}

// ---------------------------------------------------------------- paths, neighbours, classes
panel(["image", "strokes", "other", "t"], () => {
  const ends = [current(), image("test", Number(state.other))];
  const paths = Object.entries(coders).map(([name, coder]) => {
    const [a, b] = ends.map((x) => coder.encode(x));
    return [label(name), (share) => coder.decode(between(a, b, share))];
  });
  paths.push(["cross-fade of pixels", (share) => between(...ends, share)]);
  show("path-now", paths.map(([name, at]) => {
    const y = at(Number(state.t)), [near] = nearest(y, trainPixels, 1);
    return [name, y, `${short(squared(y, image("train", near)))} to the nearest`];
  }));
  paths.forEach(([, at], n) => show(`path-${n}`,
    Array.from({ length: 9 }, (_, i) => [`${i} / 8`, at(i / 8)])));
  say("path-end", `to ${nameOf(Number(state.other))}`);
});

panel(["image", "strokes"], () => {
  const x = current();
  const rows = Object.entries(coders).map(([name, coder]) =>
    nearest(coder.encode(x), codes[name].train, 8));
  [...rows, nearest(x, trainPixels, 8)].forEach((row, n) =>
    show(`near-${n}`, row.map((i) => [className("train", i), image("train", i)])));
});

panel(["image", "strokes", "from", "to", "amount"], () => {
  if (!about.labelled) return;
  const x = current(), [from, to] = [Number(state.from), Number(state.to)];
  const pairs = Object.entries(coders).flatMap(([name, coder]) => {
    const z = coder.encode(x), d = z.length, { means } = codes[name];
    const [a, b] = [from, to].map((k) => means.subarray(k * d, (k + 1) * d));
    const y = coder.decode(plus(z, plus(b, a, -1), Number(state.amount)));
    return [[label(name), y], difference("change", coder.decode(z), y)];
  });
  show("class-images", [["image", x], ["", x], ...pairs]);
  say("class-amount", `code + ${state.amount} × (mean of ${about.classes[to]} − mean of ` +
    `${about.classes[from]})`);
});

// ---------------------------------------------------------------- VAE, all models, bits
panel(["image", "strokes", "seed"], () => {
  const { vae } = networks, { mean: middle, std: spread } = codes.pca;
  if (!vae) return;
  const { mean, std } = vae.posterior(current()), normal = normalNumbers(Number(state.seed));
  const several = (name, n, decode) => Array.from({ length: n }, () => [name, decode()]);
  bars("posterior", [...mean], [...std]);
  const sample = () => vae.decode(mean.map((m, i) => m + std[i] * normal()));
  show("resampled", [["mean", vae.decode(mean)], ...several("sample", 7, sample)]);
  show("prior-vae", several("", 8, () => vae.decode(mean.map(normal))));
  show("prior-pca", several("", 8, () =>
    pca.decode(Float64Array.from(middle, (m, i) => m + spread[i] * normal()))));
});

panel(["image", "strokes"], () => show("all-models",
  withErrors(current(), reconstructions(current(), { ...networks, pca }))));

panel(["image", "strokes", "rate"], () => {
  if (!codec) return;
  const x = current(), index = Number(state.rate), name = label(about.model);
  const [own, rival] = [codec.byNetwork(x, index), codec.byPCA(x, index)];
  show("bit-images", withErrors(x, [[`${name}, ${Math.round(own.bits)} bits`, own.image],
    [`PCA, ${Math.round(rival.bits)} bits`, rival.image]]));
  say("bit-means", `Means over the ${count} test images here: ${name} ${short(own.mean.mse)} at ` +
    `${short(own.mean.bits)} bits, PCA ${short(rival.mean.mse)} at ${short(rival.mean.bits)}. ` +
    `The lower squared error is ${own.mean.mse < rival.mean.mse ? "the network's" : "PCA's"}.`);
});

// ---------------------------------------------------------------- start
function facts() {
  const { network, pca: ofPCA } = codes, percent = (share) => `${(100 * share).toFixed(1)} %`;
  const { train, test } = images, rounding = Math.max(...Object.values(about.agreement));
  const parts = [
    `${about.title}: ${label("network")} with latent dimension ${coders.network.latent_dim}, PCA ` +
    `with ${pca.latent_dim}. Their mean squared errors over the ${count} test images here (of ` +
    `${test.of}) are ${short(network.mse)} and ${short(ofPCA.mse)}.`,
    rounding ? `The weights are rounded; pixels change by up to ${short(rounding)}.` : "",
    about.left_out.length ? `Too large for this page: ${about.left_out.join(", ")}.` : "",
  ];
  say("fact-models", parts.join(" "));
  const accuracies = [network, ofPCA].map(({ accuracy }) => accuracy && percent(accuracy));
  say("fact-near", `The page holds ${train.numbers.length} of ${train.of} training images.` +
    (about.labelled ? ` A vote of 5 neighbours classifies ${accuracies[0]} of the test images ` +
    `here by the code, ${accuracies[1]} by PCA's code.` : ""));
  document.querySelectorAll("[data-network]").forEach((e) => { e.textContent = label("network"); });
}

function startControls() {
  for (const control of document.querySelectorAll("[data-key]")) control.oninput = () =>
    set({ [control.dataset.key]: control.value, ...(control.id === "which-map" && { at: "" }) });
  for (const button of document.querySelectorAll("[data-step]")) button.onclick = () =>
    step(...button.dataset.step.split(" "));
  $("resample").onclick = () => set({ seed: String(Number(state.seed) + 1) });
  about.classes.forEach((name, k) => ["from", "to"].forEach((id) =>
    $(id).append(make("option", { value: k }, [name]))));
  if (!maps.tsne) $("tsne").remove();
  if (codec) $("rate").max = codec.rates.steps.length - 1;
  const parts = { classes: about.labelled, vae: networks.vae, bits: codec };
  for (const [id, part] of Object.entries(parts)) $(id).classList.toggle("absent", !part);
  matchMedia("(prefers-color-scheme: dark)").onchange = () => render();
  onresize = () => render(["strokes", "seed"]);
  onhashchange = () => { readAddress(); render(); };
}

async function start() {
  await unpack();
  load();
  const { labels: classes } = images.test;
  defaults.other = String(Math.max(classes.findIndex((k) => k !== classes[0]), 1));
  [defaults.from, defaults.to] = [classes[0], classes[defaults.other]].map(String);
  document.documentElement.style.setProperty("--shape", `${width} / ${height}`);
  document.body.className = about.labelled ? "" : "unlabelled";
  readAddress();
  facts();
  for (const begin of [startMap, startPaper, startUnits, startControls]) begin();
  render();
  window.explorer = { about, state, set, networks, pca, codec, ready: performance.now() };
}
start().catch((error) => { say("fact-models", `This page cannot start: ${error}`); throw error; });
