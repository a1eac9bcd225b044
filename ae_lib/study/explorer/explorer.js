"use strict";
// The trained models, run in plain JavaScript, and the panels that show what they do.
// Images are arrays of pixels in [0, 1], row by row; so are all outputs of convolutions, with
// their channels last, as in Keras.

// ---------------------------------------------------------------- what the page holds
const started = performance.now();
const $ = (id) => document.getElementById(id);
const about = JSON.parse($("about").textContent);
const [height, width] = about.shape;
const pixels = height * width;
let bytes;

async function unpack() {
  const text = atob($("block").textContent.trim());
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  bytes = new Uint8Array(await new Response(stream).arrayBuffer());
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
const halves = Float32Array.from({ length: 65536 }, (_, bits) => half(bits));

function stored({ at, n, type }) {
  if (type === "u1") return bytes.subarray(at, at + n);
  const values = new Float32Array(n);
  if (type === "f2") {
    for (let i = 0; i < n; i++) values[i] = halves[bytes[at + i] | (bytes[at + n + i] << 8)];
    return values;
  }
  const words = new Uint32Array(values.buffer);
  for (let byte = 0; byte < 4; byte++) {
    for (let i = 0; i < n; i++) words[i] |= bytes[at + byte * n + i] << (8 * byte);
  }
  return values;
}

// ---------------------------------------------------------------- layers
const activations = {
  linear: (x) => x, relu: (x) => Math.max(x, 0), sigmoid: (x) => 1 / (1 + Math.exp(-x)),
};

function repeated(bias, times) {
  const y = new Float64Array(bias.length * times);
  for (let i = 0; i < times; i++) y.set(bias, i * bias.length);
  return y;
}

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
const padding = (larger, smaller, kernel, stride) =>
  Math.max((smaller - 1) * stride + kernel - larger, 0) >> 1;

// Calls visit(large, small, kernel) with the positions of all pixels that meet in a convolution.
function meeting([H, W], [h, w], [kh, kw], stride, visit) {
  const top = padding(H, h, kh, stride), left = padding(W, w, kw, stride);
  for (let i = 0; i < h; i++) for (let j = 0; j < w; j++) {
    for (let a = 0; a < kh; a++) for (let b = 0; b < kw; b++) {
      const row = i * stride + a - top, column = j * stride + b - left;
      if (row < 0 || row >= H || column < 0 || column >= W) continue;
      visit(row * W + column, i * w + j, a * kw + b);
    }
  }
}

function convolution(x, layer) {
  const { in: from, out: to, kernel, stride, weights: [filters, bias] } = layer;
  const inputs = from[2], outputs = to[2], y = repeated(bias, to[0] * to[1]);
  meeting(from, to, kernel, stride, (large, small, tap) => {
    for (let c = 0; c < inputs; c++) {
      const value = x[large * inputs + c];
      if (value === 0) continue;
      const row = (tap * inputs + c) * outputs, at = small * outputs;
      for (let o = 0; o < outputs; o++) y[at + o] += value * filters[row + o];
    }
  });
  return y;
}

function transposed(x, layer) {
  const { in: from, out: to, kernel, stride, weights: [filters, bias] } = layer;
  const inputs = from[2], outputs = to[2], y = repeated(bias, to[0] * to[1]);
  meeting(to, from, kernel, stride, (large, small, tap) => {
    for (let o = 0; o < outputs; o++) {
      const row = (tap * outputs + o) * inputs, at = small * inputs;
      let sum = 0;
      for (let c = 0; c < inputs; c++) sum += x[at + c] * filters[row + c];
      y[large * outputs + o] += sum;
    }
  });
  return y;
}

function cropped(x, { in: [, W, channels], out: [h, w] }) {
  const y = new Float64Array(h * w * channels);
  for (let i = 0; i < h; i++) {
    const start = i * W * channels;
    y.set(x.subarray(start, start + w * channels), i * w * channels);
  }
  return y;
}

const kinds = {
  Dense: dense, Conv2D: convolution, Conv2DTranspose: transposed, Cropping2D: cropped,
};
const loaded = (layers) => layers.map((l) => ({ ...l, weights: l.weights.map(stored) }));

function run(layers, x) {
  for (const layer of layers) {
    x = kinds[layer.kind](x, layer);
    const activation = layer.activation ?? "linear";
    if (activation !== "linear") x = x.map(activations[activation]);
  }
  return x;
}

// ---------------------------------------------------------------- models
const plus = (x, y, factor = 1) => Float64Array.from(x, (value, i) => value + factor * y[i]);
const between = (x, y, t) => Float64Array.from(x, (value, i) => (1 - t) * value + t * y[i]);
const sum = (x) => x.reduce((total, value) => total + value, 0);

class Network {
  constructor({ encoder, decoder, latent_dim, variational }) {
    Object.assign(this, { latent_dim, variational });
    this.layers = { encoder: loaded(encoder), decoder: loaded(decoder) };
  }
  encode(x) { return run(this.layers.encoder, x).subarray(0, this.latent_dim); }
  decode(z) { return run(this.layers.decoder, z); }
  posterior(x) { // mean and standard deviation of each unit
    const both = run(this.layers.encoder, x), mean = both.subarray(0, this.latent_dim);
    return { mean, std: both.subarray(this.latent_dim).map((log) => Math.exp(log / 2)) };
  }
}

class PCA {
  constructor({ mean, components }, latent_dim) {
    Object.assign(this, { latent_dim, mean: stored(mean), components: stored(components) });
  }
  encode(x, count = this.latent_dim) {
    const z = new Float64Array(count);
    for (let k = 0; k < count; k++) {
      const at = k * pixels;
      for (let i = 0; i < pixels; i++) z[k] += this.components[at + i] * (x[i] - this.mean[i]);
    }
    return z;
  }
  decode(z, gain = 1) {
    const y = Float64Array.from(this.mean);
    for (let k = 0; k < z.length; k++) {
      if (z[k] === 0) continue;
      const at = k * pixels, value = gain * z[k];
      for (let i = 0; i < pixels; i++) y[i] += value * this.components[at + i];
    }
    return y;
  }
}

// ---------------------------------------------------------------- scores
function squared(x, y) {
  let total = 0;
  for (let i = 0; i < x.length; i++) total += (x[i] - y[i]) ** 2;
  return total;
}
const squaredError = (x, y) => squared(x, y) / pixels;

const bell = Float64Array.from({ length: 9 }, (_, i) => Math.exp(-((i - 4) ** 2) / 2));
const mirrored = (i, n) => {
  const place = ((i % (2 * n)) + 2 * n) % (2 * n);
  return place < n ? place : 2 * n - 1 - place;
};

function smooth(x, lines, length, across, along) { // along one axis, with σ = 1 pixel
  const y = new Float64Array(x.length), total = sum(bell);
  for (let i = 0; i < lines; i++) for (let j = 0; j < length; j++) for (let k = -4; k <= 4; k++) {
    y[i * across + j * along] += bell[k + 4] / total * x[i * across + mirrored(j + k, length) * along];
  }
  return y;
}

function relativeError(x, y) {
  const rows = smooth(plus(y, x, -1), height, width, width, 1);
  const both = smooth(rows, width, height, 1, width);
  return both.reduce((total, value) => total + value ** 2, 0) / Math.max(sum(x), 1);
}

// Conformal: the share of validation images that are as strange. Between two stored quantiles the
// larger one is returned.
function pValue(score, { values, ranks, of }) {
  const place = values.findIndex((value) => value >= score);
  const asStrange = place < 0 ? 0 : place === 0 ? of : of - ranks[place - 1] - 1;
  return (1 + asStrange) / (of + 1);
}

function nearest(point, points, k) { // rows of a matrix, nearest first
  const d = point.length, n = points.length / d, distances = new Float64Array(n);
  for (let i = 0; i < n; i++) for (let j = 0, at = i * d; j < d; j++, at++) {
    distances[i] += (points[at] - point[j]) ** 2;
  }
  return Array.from(distances.keys()).sort((a, b) => distances[a] - distances[b]).slice(0, k);
}

function randomNumbers(seed) { // uniform (mulberry32), and normal by Box and Muller
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const length = () => Math.sqrt(-2 * Math.log(1 - uniform()));
  return { uniform, normal: () => length() * Math.cos(2 * Math.PI * uniform()) };
}

// ---------------------------------------------------------------- the codec
class Codec {
  constructor(stored_) {
    Object.assign(this, stored_);
    [this.last] = loaded([this.coordinates]);
    this.layers = loaded(this.decoder);
  }
  bin(cell, step) { // of how many steps; as the codec's own bins, which begin at whole cells
    const edge = (k) => Math.floor((k - this.rounding) * step / this.cell + 0.5);
    let k = Math.floor(Math.abs(cell) * this.cell / step + this.rounding) + 2;
    while (k > 0 && (cell >= 0 ? edge(k) > cell : cell >= -edge(k))) k--;
    return cell >= 0 ? k : -k;
  }
  quantise(coordinates, { first, steps }, index) {
    const { step, counts, ...places } = steps[index];
    const values = stored(places.values), lengths = stored(places.lengths);
    let bits = 0, start = 0;
    const z = coordinates.map((value, i) => {
      const bin = this.bin(Math.floor(value / this.cell), step) - this.bin(first[i], step);
      const place = start + Math.min(Math.max(bin, 0), counts[i] - 1);
      start += counts[i];
      bits += lengths[place];
      return values[place];
    });
    return { z, bits, step };
  }
  byNetwork(x, index) {
    const coordinates = dense(networks[this.network].encode(x), this.last);
    const { z, bits, step } = this.quantise(coordinates, this.rates, index);
    const extended = new Float64Array(this.layers[0].in[0]).fill(Math.log(step));
    extended.set(z);
    return { bits, image: run(this.layers, extended) };
  }
  byPCA(x, index) { // at the step whose mean bits are nearest
    const wanted = this.rates.steps[index].bits, steps = this.pca.steps;
    const far = steps.map(({ bits }) => Math.abs(Math.log(bits / wanted)));
    const equal = far.indexOf(Math.min(...far));
    const { z, bits } = this.quantise(pca.encode(x, this.pca.first.length), this.pca, equal);
    const image = pca.decode(z, this.gain).map((value) => Math.min(Math.max(value, 0), 1));
    return { bits, image, mean: steps[equal] };
  }
}

// ---------------------------------------------------------------- all that was trained
let networks, main, pca, codec, images, codes, scores, maps;
const coder = { get network() { return main; }, get pca() { return pca; } };

function loadModels() {
  const each = (parts, make) =>
    Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, make(part)]));
  networks = each(about.networks, (part) => new Network(part));
  main = networks[about.model];
  pca = new PCA(about.pca, about.codes.pca.mean.length);
  images = each(about.images, (part) => ({ ...part, pixels: stored(part.pixels) }));
  const ofCodes = (part) => ({ ...part, train: stored(part.train), means: stored(part.means) });
  codes = { network: ofCodes(about.codes[about.model]), pca: ofCodes(about.codes.pca) };
  const quantiles = (part) => each(part, (one) => ({ ...one, values: stored(one.values) }));
  scores = {
    network: quantiles(about.scores[about.model]), pca: quantiles(about.scores.pca),
  };
  maps = each(about.maps, (part) => ({ ...part, points: stored(part.points) }));
  codec = about.codec && new Codec(about.codec);
}

const image = (part, i) =>
  Float64Array.from(images[part].pixels.subarray(i * pixels, (i + 1) * pixels), (v) => v / 255);
const className = (part, i) => (about.labelled ? about.classes[images[part].labels[i]] : "");

// ---------------------------------------------------------------- the state, kept in the address
const defaults = {
  image: "0", // of the test images, or "draw"
  other: "1", // the end of the path
  map: "pca", at: "", only: "", // which map, a place on it, a class that is emphasised
  units: "", // rank and place of each slider that was moved
  t: "0.5", from: "0", to: "1", amount: "1", seed: "1", rate: "12",
  strokes: "VRjQyQ.yQsYmhgqdzc-", // two letters for a point, a dot between strokes
};
const state = { ...defaults };
const panels = []; // [keys of the state that it depends on, function that draws it]

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const key in defaults) state[key] = given.get(key) ?? defaults[key];
  if (state.image !== "draw") state.image = String(valid(state.image));
  state.other = String(valid(state.other));
  if (!maps[state.map]) state.map = "pca";
}
const valid = (i) => Math.min(Math.max(Math.trunc(Number(i)) || 0, 0), count - 1);

let saving, count;
function set(changes) {
  Object.assign(state, changes);
  render(Object.keys(changes));
  clearTimeout(saving); // browsers allow few changes of the address in a second
  saving = setTimeout(() => {
    const changed = Object.entries(state).filter(([key, value]) => value !== defaults[key]);
    history.replaceState(null, "", "#" + new URLSearchParams(changed));
  }, 150);
}

function render(keys = Object.keys(defaults)) {
  for (const control of document.querySelectorAll("[data-key]")) {
    control.value = state[control.dataset.key];
  }
  for (const [needed, draw] of panels) if (needed.some((key) => keys.includes(key))) draw();
}

function panel(keys, draw) { panels.push([keys, draw]); }
const isDrawn = () => state.image === "draw";
const current = () => (isDrawn() ? drawn() : image("test", Number(state.image)));
const nameOf = (part, i) => {
  const named = about.labelled ? ` (class ${className(part, i)})` : "";
  return `${part} image ${images[part].numbers[i]}${named}`;
};

// ---------------------------------------------------------------- pictures
const short = (value) => Number(value.toPrecision(3)).toString();
const say = (id, text) => { $(id).textContent = text; };

function make(tag, properties = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Grey values, or signed differences: orange is too much ink, blue is missing ink.
function colour(value, kind) {
  if (kind !== "error") return Array(3).fill(255 * Math.min(Math.max(value, 0), 1));
  const share = Math.min(Math.abs(value) / 0.6, 1), end = value > 0 ? [213, 94, 0] : [0, 90, 170];
  return end.map((channel) => 247 + share * (channel - 247));
}

function paint(canvas, values, kind) {
  const data = new ImageData(width, height);
  for (let i = 0; i < pixels; i++) data.data.set([...colour(values[i], kind), 255], 4 * i);
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(data, 0, 0);
}

// Puts pictures into a row: [caption, pixels, second line, "error" for a difference].
function show(id, pictures) {
  const row = $(id);
  while (row.children.length > pictures.length) row.lastChild.remove();
  while (row.children.length < pictures.length) {
    const parts = [make("canvas"), make("figcaption", {}, [make("span"), make("small")])];
    parts[0].setAttribute("role", "img");
    row.append(make("figure", {}, parts));
  }
  pictures.forEach(([caption, values, note = "", kind], n) => {
    const [canvas, text] = row.children[n].children;
    canvas.setAttribute("aria-label", `${caption || "picture"} ${note}`.trim());
    text.firstChild.textContent = caption;
    text.lastChild.textContent = note;
    paint(canvas, values, kind);
  });
}

const error = (x, y) => plus(y, x, -1);
function withErrors(x, pairs) { // reconstructions beside their error maps
  return pairs.flatMap(([name, y]) => [
    [name, y, `squared error ${short(squaredError(x, y))}`],
    [`error of ${name}`, error(x, y), `relative ${short(relativeError(x, y))}`, "error"],
  ]);
}
const bothReconstructions = (x) =>
  ["network", "pca"].map((n) => [label(n), coder[n].decode(coder[n].encode(x))]);

const labels = {
  dense: "dense network", conv: "convolutional network", vae: "VAE", pca: "PCA",
};
const label = (n) => (n === "network" ? labels[about.model] ?? about.model : labels[n] ?? n);

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function prepared(canvas) { // for drawing in CSS pixels
  const ratio = devicePixelRatio || 1, [w, h] = [canvas.clientWidth, canvas.clientHeight];
  Object.assign(canvas, { width: w * ratio, height: h * ratio });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return [context, w, h];
}

function bars(id, means, spreads) { // a bar for each unit, with ± one standard deviation
  const [context, w, h] = prepared($(id)), gap = w / means.length;
  const reach = Math.max(...means.map((m, i) => Math.abs(m) + (spreads?.[i] ?? 0)), 1e-9);
  const y = (value) => h / 2 - (value / reach) * (h / 2 - 4);
  context.fillStyle = css("--line");
  context.fillRect(0, h / 2, w, 1);
  means.forEach((mean, i) => {
    context.fillStyle = css("--accent");
    const top = Math.min(y(mean), y(0));
    context.fillRect((i + 0.2) * gap, top, 0.6 * gap, Math.max(Math.abs(y(mean) - y(0)), 1));
    if (!spreads) return;
    context.fillStyle = css("--c5");
    const high = y(mean + spreads[i]), low = y(mean - spreads[i]);
    context.fillRect((i + 0.5) * gap - 1, high, 2, low - high);
  });
  $(id).setAttribute("aria-label", `${means.length} units, ${short(Math.min(...means))} to ` +
    `${short(Math.max(...means))}`);
}

// ---------------------------------------------------------------- the current image
panel(["image", "strokes"], () => {
  show("current", [["", current()]]);
  say("current-name", isDrawn() ? "your drawing" : nameOf("test", Number(state.image)));
  $("use-drawing").setAttribute("aria-pressed", isDrawn());
});

function step(key, by) {
  const from = state[key] === "draw" ? (by > 0 ? -1 : 0) : Number(state[key]);
  set({ [key]: String((from + by + count) % count), units: "", at: "" });
}
const anyImage = () => String(Math.floor(Math.random() * count));

// ---------------------------------------------------------------- 1. the map
const view = { hover: null, scale: 1, points: [] };
const shapes = ["●", "▲", "■"];

function mark(context, x, y, shape, r) {
  context.beginPath();
  if (shape === 0) context.arc(x, y, r, 0, 7);
  else if (shape === 1) {
    context.moveTo(x, y - 1.3 * r);
    context.lineTo(x + 1.2 * r, y + r);
    context.lineTo(x - 1.2 * r, y + r);
  } else context.rect(x - r, y - r, 2 * r, 2 * r);
  context.fill();
}

function placePoints(w, h) {
  const { points } = maps[state.map], lows = [], spans = [];
  for (const axis of [0, 1]) {
    const values = points.filter((_, i) => i % 2 === axis);
    lows.push(Math.min(...values));
    spans.push(Math.max(...values) - lows[axis] || 1);
  }
  const scale = Math.min((w - 40) / spans[0], (h - 40) / spans[1]);
  const [left, top] = [(w - scale * spans[0]) / 2, (h - scale * spans[1]) / 2];
  view.toScreen = (x, y) => [left + scale * (x - lows[0]), h - top - scale * (y - lows[1])];
  view.toMap = (x, y) => [lows[0] + (x - left) / scale, lows[1] + (h - top - y) / scale];
  view.points = Array.from({ length: count }, (_, i) =>
    view.toScreen(points[2 * i], points[2 * i + 1]));
}

function drawMap() {
  const [context, w, h] = prepared($("map")), names = images.test.labels;
  placePoints(w, h);
  const colours = Array.from({ length: 7 }, (_, i) => css(`--c${i}`));
  view.points.forEach(([x, y], i) => {
    const k = about.labelled ? names[i] : 0, faint = state.only && state.only !== String(k);
    context.globalAlpha = faint ? 0.12 : 0.8;
    context.fillStyle = colours[k % 7];
    mark(context, x, y, k % 3, 3.2);
  });
  context.globalAlpha = 1;
  const ring = (x, y, r) => {
    context.strokeStyle = css("--ink");
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y, r, 0, 7);
    context.stroke();
  };
  if (!isDrawn()) ring(...view.points[Number(state.image)], 8);
  if (view.hover !== null) ring(...view.points[view.hover], 5);
  if (state.at) {
    const [x, y] = view.toScreen(...state.at.split(",").map(Number));
    context.fillStyle = css("--ink");
    context.fillRect(x - 10, y - 1, 20, 2);
    context.fillRect(x - 1, y - 10, 2, 20);
  }
}

function closest(x, y) {
  const far = view.points.map(([a, b]) => (a - x) ** 2 + (b - y) ** 2);
  return far.indexOf(Math.min(...far));
}

function codeAt(x, y) { // what a place on the map is decoded from
  const { mean, axes } = maps[state.map];
  const near = closest(...view.toScreen(x, y));
  if (!axes) return { near, code: main.encode(image("test", near)) };
  return { near, code: Float64Array.from(mean, (m, i) => m + x * axes[0][i] + y * axes[1][i]) };
}

function inspect() {
  if (state.at && view.hover === null) {
    const { near, code } = codeAt(...state.at.split(",").map(Number));
    const x = image("test", near), y = main.decode(code);
    const [, ofPCA] = bothReconstructions(x);
    show("inspect", [
      ["decoded from this place", y], ["nearest test image", x, className("test", near)],
      ["difference of the two", error(x, y), "", "error"], ["PCA of the nearest", ofPCA[1]],
    ]);
    say("inspect-name", maps[state.map].axes
      ? "A place on the map is a code: its two coordinates along the axes, and the mean otherwise."
      : "t-SNE has no way back from the map: the code of the nearest test image is decoded.");
    return;
  }
  const drawing = view.hover === null && isDrawn();
  const i = view.hover ?? Number(state.image), x = drawing ? drawn() : image("test", i);
  show("inspect", [["image", x], ...withErrors(x, bothReconstructions(x))]);
  say("inspect-name", drawing ? "your drawing" : nameOf("test", i));
}
panel(["map", "at", "only", "image", "strokes"], () => { drawMap(); inspect(); });
panel(["map", "only"], () => {
  for (const button of document.querySelectorAll("#legend button")) {
    button.setAttribute("aria-pressed", state.only === button.value);
  }
  say("map-note", state.map === "pca"
    ? "Drag over the map to decode the places between the images."
    : "Neighbours on this map are neighbours in the code; distances mean little.");
});

function hover(index) {
  view.hover = index;
  drawMap();
  inspect();
}

function startMap() {
  const canvas = $("map");
  let from = null, dragged = false;
  const place = (event) => [event.offsetX, event.offsetY];
  const decodeAt = (x, y) => {
    view.hover = null;
    set({ at: view.toMap(x, y).map(short).join(",") });
  };
  canvas.addEventListener("pointerdown", (event) => {
    [from, dragged] = [place(event), false];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (!from) return hover(closest(x, y));
    dragged ||= Math.hypot(x - from[0], y - from[1]) > 4;
    if (dragged) decodeAt(x, y);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (from && !dragged) set({ image: String(closest(...place(event))), at: "", units: "" });
    from = null;
  });
  canvas.addEventListener("pointercancel", () => { from = null; });
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("blur", () => hover(null));
  canvas.addEventListener("focus", () => { if (!isDrawn()) hover(Number(state.image)); });
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const here = view.hover ?? (isDrawn() ? 0 : Number(state.image)), d = way[event.key];
    if (event.key === "Enter") set({ image: String(here), at: "", units: "" });
    if (!d) return;
    event.preventDefault();
    const [x, y] = state.at && event.shiftKey
      ? view.toScreen(...state.at.split(",").map(Number)) : view.points[here];
    if (event.shiftKey) return decodeAt(x + 8 * d[0], y + 8 * d[1]);
    // The nearest point that lies in this direction.
    const cost = view.points.map(([a, b]) => {
      const along = (a - x) * d[0] + (b - y) * d[1], beside = (a - x) * d[1] + (b - y) * d[0];
      return along > 1 ? along + 2 * Math.abs(beside) : Infinity;
    });
    const best = Math.min(...cost);
    hover(best < Infinity ? cost.indexOf(best) : here);
  });
  if (about.labelled) about.classes.forEach((name, k) => {
    const symbol = make("span", { textContent: shapes[k % 3] });
    symbol.style.color = `var(--c${k % 7})`;
    const button = make("button", { type: "button", value: String(k) }, [symbol, ` ${name}`]);
    button.onclick = () => set({ only: state.only === String(k) ? "" : String(k) });
    $("legend").append(button);
  });
  new ResizeObserver(() => drawMap()).observe(canvas);
}

// ---------------------------------------------------------------- 2. drawing
const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const pen = Math.max(height, width) / 12;

const points = () => state.strokes.split(".").filter((stroke) => stroke).map((stroke) =>
  Array.from({ length: stroke.length >> 1 }, (_, i) => [
    (letters.indexOf(stroke[2 * i]) + 0.5) / 64 * width,
    (letters.indexOf(stroke[2 * i + 1]) + 0.5) / 64 * height,
  ]));

function trace(context, strokes) {
  Object.assign(context, { lineWidth: pen, lineCap: "round", lineJoin: "round" });
  context.strokeStyle = "#fff";
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(...stroke[0]);
    stroke.forEach(([x, y], i) => {
      const [a, b] = stroke[i + 1] ?? [x, y];
      context.quadraticCurveTo(x, y, (x + a) / 2, (y + b) / 2);
    });
    context.lineTo(...stroke.at(-1));
    context.stroke();
  }
}

const fine = 8; // so many rows and columns for a pixel, which are averaged
const sheet = make("canvas", { width: fine * width, height: fine * height });

function rasterised(strokes, factor, right, down) {
  const context = sheet.getContext("2d", { willReadFrequently: true });
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, sheet.width, sheet.height);
  context.setTransform(fine * factor, 0, 0, fine * factor, fine * right, fine * down);
  trace(context, strokes);
  const { data } = context.getImageData(0, 0, sheet.width, sheet.height);
  const x = new Float64Array(pixels);
  for (let i = 0; i < sheet.height; i++) for (let j = 0; j < sheet.width; j++) {
    const at = Math.floor(i / fine) * width + Math.floor(j / fine);
    x[at] += data[4 * (i * sheet.width + j) + 3] / 255 / fine ** 2;
  }
  return x;
}

// As MNIST was made: the longer side scaled to that of the training images (20 of MNIST's 28
// pixels), then moved so that the centre of mass is where theirs is; all of it stays inside.
function preprocessed(strokes) {
  if (!strokes.length) return new Float64Array(pixels);
  const box = [0, 1].map((axis) => {
    const values = strokes.flat().map((point) => point[axis]);
    return [Math.min(...values) - pen / 2, Math.max(...values) + pen / 2];
  });
  const factor = about.drawing.side / Math.max(...box.map(([low, high]) => high - low));
  const size = [width, height], goal = [about.drawing.right, about.drawing.down];
  let shift = box.map(([low, high], axis) => size[axis] / 2 - factor * (low + high) / 2);
  const x = rasterised(strokes, factor, ...shift), mass = Math.max(sum(x), 1e-9);
  const centre = [0, 0];
  x.forEach((value, i) => {
    centre[0] += value * (i % width + 0.5) / mass;
    centre[1] += value * (Math.floor(i / width) + 0.5) / mass;
  });
  shift = shift.map((old, axis) => {
    const ends = [-factor * box[axis][0], size[axis] - factor * box[axis][1]];
    const wanted = old + goal[axis] - centre[axis];
    return ends[0] <= ends[1] ? Math.min(Math.max(wanted, ends[0]), ends[1]) : old;
  });
  return rasterised(strokes, factor, ...shift).map((value) => Math.min(value, 1));
}

let lastDrawing = {};
function drawn() {
  if (lastDrawing.strokes !== state.strokes) {
    lastDrawing = { strokes: state.strokes, x: preprocessed(points()) };
  }
  return lastDrawing.x;
}

function vote(indices) { // the most frequent class; of several the smallest
  const votes = about.classes.map(() => 0);
  for (const i of indices) votes[images.train.labels[i]]++;
  return about.classes[votes.indexOf(Math.max(...votes))];
}

panel(["strokes"], () => {
  const [context, w, h] = prepared($("paper"));
  context.fillStyle = "#000";
  context.fillRect(0, 0, w, h);
  context.scale(w / width, h / height);
  trace(context, points());
  const x = drawn(), pairs = bothReconstructions(x);
  show("drawn", [["as the models get it", x], ...withErrors(x, pairs)]);
  bars("drawn-code", [...main.encode(x)]);
  const rows = ["network", "pca"].map((name, n) => {
    const y = pairs[n][1];
    const values = { squared: squaredError(x, y), relative: relativeError(x, y) };
    const cells = Object.entries(values).map(([score, value]) =>
      `${short(value)} (p = ${short(pValue(value, scores[name][score]))})`);
    return [label(name), ...cells, ...(about.labelled
      ? [vote(nearest(coder[name].encode(x), codes[name].train, 5))] : [])];
  });
  $("drawn-scores").tBodies[0].replaceChildren(...rows.map((row) =>
    make("tr", {}, row.map((text, n) => make(n ? "td" : "th", { textContent: text })))));
});

function startPaper() {
  const canvas = $("paper");
  let drawing = false, cursor = [32, 32], down = false;
  const add = ([x, y]) => {
    const point = [x, y].map((v) => letters[Math.min(Math.max(Math.floor(v), 0), 63)]).join("");
    if (!state.strokes.endsWith(point)) set({ strokes: state.strokes + point });
  };
  const lift = () => { if (state.strokes && !state.strokes.endsWith(".")) state.strokes += "."; };
  const place = (event) =>
    [event.offsetX / canvas.clientWidth * 64, event.offsetY / canvas.clientHeight * 64];
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    drawing = true;
    lift();
    add(place(event));
  });
  canvas.addEventListener("pointermove", (event) => { if (drawing) add(place(event)); });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => { drawing = false; });
  }
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-2, 0], ArrowRight: [2, 0], ArrowUp: [0, -2], ArrowDown: [0, 2] };
    if (event.key === " ") {
      down = !down;
      if (down) { lift(); add(cursor); }
    } else if (way[event.key]) {
      cursor = cursor.map((v, i) => Math.min(Math.max(v + way[event.key][i], 1), 62));
      if (down) add(cursor);
    } else return;
    event.preventDefault();
    say("pen", `pen ${down ? "down" : "up"} at ${cursor.map((v) => Math.round(v / 0.64))} %`);
  });
  $("clear").onclick = () => set({ strokes: "" });
  $("use-drawing").onclick = () => set({ image: isDrawn() ? "0" : "draw", units: "", at: "" });
}

// ---------------------------------------------------------------- 3. the units of the code
const moved = () => new Map(state.units.split(".").filter((part) => part.includes("_"))
  .map((part) => part.split("_").map(Number)));

function withUnits(name, z) { // unit and component of equal rank move to equal places
  const { order, low, high } = codes[name], changed = Float64Array.from(z);
  for (const [rank, place] of moved()) {
    const unit = order[rank];
    if (unit !== undefined) changed[unit] = low[unit] + place / 100 * (high[unit] - low[unit]);
  }
  return changed;
}

panel(["image", "strokes", "units"], () => {
  const x = current(), z = main.encode(x), { order, low, high } = codes.network, places = moved();
  show("units-images", ["network", "pca"].flatMap((name) => {
    const code = coder[name].encode(x), before = coder[name].decode(code);
    const after = coder[name].decode(withUnits(name, code));
    return [[`${label(name)}, units moved`, after], ["change", error(before, after), "", "error"]];
  }));
  for (const [rank, input] of [...$("sliders").querySelectorAll("input")].entries()) {
    const unit = order[rank], span = high[unit] - low[unit];
    const own = span > 0 ? 100 * (z[unit] - low[unit]) / span : 50;
    input.value = places.get(rank) ?? own;
    const value = short(places.has(rank) ? low[unit] + input.value / 100 * span : z[unit]);
    input.setAttribute("aria-valuetext", value);
    input.nextSibling.textContent = value;
  }
});

function startUnits() {
  const { order, costs, low, high } = codes.network;
  order.forEach((unit, rank) => {
    const input = make("input", { type: "range", min: 0, max: 100, step: 1 });
    input.disabled = high[unit] <= low[unit]; // a unit that never changes
    input.oninput = () => {
      const all = moved().set(rank, Number(input.value));
      set({ units: [...all].map((pair) => pair.join("_")).join(".") });
    };
    const text = `unit ${unit + 1} · costs ${short(costs[unit])}`;
    $("sliders").append(make("label", {}, [make("span", { textContent: text }), input,
      make("output")]));
  });
  $("reset-units").onclick = () => set({ units: "" });
}

// ---------------------------------------------------------------- 4. paths between two images
let trainPixels;
panel(["image", "strokes", "other", "t"], () => {
  const ends = [current(), image("test", Number(state.other))], t = Number(state.t);
  const paths = ["network", "pca"].map((name) => {
    const [a, b] = ends.map((x) => coder[name].encode(x));
    return [label(name), (share) => coder[name].decode(between(a, b, share))];
  });
  paths.push(["cross-fade of pixels", (share) => between(...ends, share)]);
  show("path-now", paths.map(([name, at]) => {
    const y = at(t), [near] = nearest(y, trainPixels, 1);
    return [name, y, `to nearest: ${short(squared(y, image("train", near)))}`];
  }));
  const shares = Array.from({ length: 9 }, (_, i) => i / 8);
  paths.forEach(([, at], n) => show(`path-${n}`, shares.map((share) => ["", at(share)])));
  say("path-ends", `from ${isDrawn() ? "your drawing" : nameOf("test", Number(state.image))} ` +
    `to ${nameOf("test", Number(state.other))}`);
});

// ---------------------------------------------------------------- 5. neighbours
panel(["image", "strokes"], () => {
  const x = current(), kept = [["network", codes.network.train], ["pca", codes.pca.train]];
  const rows = kept.map(([name, all]) => nearest(coder[name].encode(x), all, 7));
  [...rows, nearest(x, trainPixels, 7)].forEach((row, n) =>
    show(`near-${n}`, row.map((i) => [className("train", i), image("train", i)])));
});

// ---------------------------------------------------------------- 6. from class to class
panel(["image", "strokes", "from", "to", "amount"], () => {
  if (!about.labelled) return;
  const x = current(), [from, to] = [Number(state.from), Number(state.to)];
  show("class-images", [["image", x], ...["network", "pca"].map((name) => {
    const z = coder[name].encode(x), d = z.length, { means } = codes[name];
    const [a, b] = [from, to].map((k) => means.subarray(k * d, (k + 1) * d));
    return [label(name), coder[name].decode(plus(z, plus(b, a, -1), Number(state.amount)))];
  })]);
  say("class-amount", `${state.amount} × (mean of ${about.classes[to]} − mean of ` +
    `${about.classes[from]})`);
});

// ---------------------------------------------------------------- 7. the VAE
panel(["image", "strokes", "seed"], () => {
  const { vae } = networks;
  if (!vae) return;
  const { mean, std } = vae.posterior(current()), { normal } = randomNumbers(Number(state.seed));
  const sampled = () => mean.map((m, i) => m + std[i] * normal());
  bars("posterior", [...mean], [...std]);
  show("resampled", [["mean", vae.decode(mean)],
    ...Array.from({ length: 6 }, () => ["sample", vae.decode(sampled())])]);
  const some = (decode) => Array.from({ length: 9 }, () => ["", decode()]);
  const ofPCA = () => pca.decode(Float64Array.from(codes.pca.std, (s, i) =>
    codes.pca.mean[i] + s * normal()));
  show("prior-vae", some(() => vae.decode(mean.map(normal))));
  show("prior-pca", some(ofPCA));
});

// ---------------------------------------------------------------- 8. all models side by side
panel(["image", "strokes"], () => {
  const x = current(), all = { ...networks, pca };
  show("all-models", [["image", x], ["", x.map(() => 1)], ...withErrors(x,
    Object.entries(all).map(([name, model]) => [label(name), model.decode(model.encode(x))]))]);
});

// ---------------------------------------------------------------- 9. bits
panel(["image", "strokes", "rate"], () => {
  if (!codec) return;
  const x = current(), index = Number(state.rate), { bits, mse } = codec.rates.steps[index];
  const [own, rival] = [codec.byNetwork(x, index), codec.byPCA(x, index)];
  const name = label(codec.network);
  show("bit-images", [["image", x], ...withErrors(x, [
    [`${name}, ${Math.round(own.bits)} bits`, own.image],
    [`PCA, ${Math.round(rival.bits)} bits`, rival.image]])]);
  const winner = mse < rival.mean.mse ? name : "PCA";
  say("bit-means", `Over the ${count} test images here: ${name} ${short(mse)} at ` +
    `${short(bits)} bits, PCA ${short(rival.mean.mse)} at ${short(rival.mean.bits)} bits. ` +
    `At this rate the ${winner} has the lower squared error.`);
});

// ---------------------------------------------------------------- start
function facts() {
  const { network, pca: ofPCA } = codes, percent = (v) => `${(100 * v).toFixed(1)} %`;
  const rounded = Math.max(...Object.values(about.agreement));
  say("fact-models", `${about.title}. The panels show ${label(about.model)} with ` +
    `${main.latent_dim} units, beside PCA with ${pca.latent_dim} components. Mean squared error ` +
    `over the ${count} test images here (of ${images.test.of}): ${short(network.mse)} against ` +
    `PCA's ${short(ofPCA.mse)}.` + (rounded ? " Weights are rounded; that changes no pixel " +
    `by more than ${rounded.toFixed(4)}.` : ""));
  if (about.left_out.length) $("fact-models").append(` Left out, since the page would be too ` +
    `large: ${about.left_out.join(", ")}.`);
  say("fact-near", `The page holds ${images.train.numbers.length} of ${images.train.of} training ` +
    "images." + (network.accuracy === null ? "" : " A vote of the 5 nearest classifies " +
    `${percent(network.accuracy)} of the test images by the code, ${percent(ofPCA.accuracy)} ` +
    "by PCA's."));
  document.querySelectorAll("[data-network]").forEach((e) => { e.textContent = label("network"); });
}

function startControls() {
  for (const control of document.querySelectorAll("[data-key]")) {
    control.oninput = () => set({ [control.dataset.key]: control.value });
  }
  for (const button of document.querySelectorAll("[data-step]")) {
    const [key, by] = button.dataset.step.split(" ");
    button.onclick = () => (by ? step(key, Number(by)) : set({ [key]: anyImage(), at: "" }));
  }
  $("resample").onclick = () => set({ seed: String(Number(state.seed) + 1) });
  for (const id of ["from", "to"]) {
    about.classes.forEach((name, k) => $(id).append(make("option", { value: k }, [name])));
  }
  if (!maps.tsne) $("tsne").remove();
  $("rate").max = codec ? codec.rates.steps.length - 1 : 0;
  const there = { classes: about.labelled, vae: networks.vae, bits: codec };
  for (const [id, present] of Object.entries(there)) $(id).classList.toggle("absent", !present);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => render());
  addEventListener("hashchange", () => { readAddress(); render(); });
  addEventListener("resize", () => render(["image", "strokes"]));
}

async function start() {
  await unpack();
  loadModels();
  count = images.test.numbers.length;
  trainPixels = Float32Array.from(images.train.pixels, (value) => value / 255);
  defaults.other = String(images.test.labels.findIndex((k) => k !== images.test.labels[0]));
  document.documentElement.style.setProperty("--shape", `${width} / ${height}`);
  readAddress();
  facts();
  for (const begin of [startMap, startPaper, startUnits, startControls]) begin();
  render();
  Object.assign(window.explorer, { networks, pca, codec, images, loaded: performance.now() });
  document.body.dataset.ready = "true";
}

window.explorer = { about, state, set, started, squaredError, relativeError, pValue, image };
start();
