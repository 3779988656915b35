// The page: what comes over the link goes to the panels, what is pressed goes back.
import { Strip, chart, refit, repaint } from "./charts.js";
import { Controls, onKeys } from "./controls.js";
import { Images } from "./images.js";
import { Waterfall, drawConstellation } from "./pictures.js";
import { Link } from "./wire.js";

const by = (id) => document.getElementById(id);
const FRAMES_LISTED = 100;
const EVENTS_LISTED = 50;
const QUICKLY_MS = 100; // spectrum, constellation, channel
const SLOWLY_MS = 500; // everything else
const TRUTHS_KEPT = 100;
const ON_THE_WAY_S = 0.2; // from the channel to the receiver, about
const PEAK_FALL_DB = 0.02;

let about = null, values = {}, controlling = false, frozen = false, peak = null, truths = [], rateBase = null;
const seen = {}; // messages of each kind, for whoever asks
const status = {};

const link = new Link(take, (up) => {
  const state = by("link");
  state.textContent = up ? "connected" : "connection lost: the engine may have ended";
  state.classList.toggle("lost", !up);
  if (!up) news("connection lost; what you see is old", "error");
});
const controls = new Controls(by("controls"), (command) => link.send(command));
const images = new Images(by("newest"), by("sampled"), by("sharpening"));
const waterfall = new Waterfall(by("waterfall"));
const charts = {
  spectrum: chart(by("spectrum"), { height: 190, x: "kHz", unit: "dBFS", series: [{ label: "now", colour: "blue" }, { label: "peak hold", colour: "orange", dash: [4, 3] }] }),
  response: chart(by("response"), {
    height: 180, x: "carrier", unit: "|H|, dB",
    series: [{ label: "estimate", colour: "blue" }, { label: "+ 2 s.e.", colour: "rule" }, { label: "− 2 s.e.", colour: "rule" }, { label: "true", colour: "orange", points: true }],
    bands: [[2, 3]],
  }),
  taps: chart(by("taps"), {
    height: 150, x: "delay, samples", unit: "|h|",
    series: [{ label: "estimate", colour: "blue" }, { label: "+ 2 s.e.", colour: "rule" }, { label: "− 2 s.e.", colour: "rule" }, { label: "true", colour: "orange", points: true }],
    bands: [[2, 3]],
  }),
};
const strip = (title, unit, names) => new Strip(by("strips"), title, unit, names);
const strips = {
  csnr: strip("CSNR", "dB", ["csnr"]),
  cfo: strip("CFO", "Hz", ["cfo"]),
  sfo: strip("SFO", "ppm", ["sfo"]),
  evm: strip("EVM", "dB", ["evm"]),
  residual: strip("residual", "", ["plain", "sampler"]),
  expected: strip("expected PSNR", "dB", ["plain", "sampler"]),
  psnr: strip("PSNR", "dB", ["plain", "sampler"]),
  accepted: strip("accepted", "%", ["plain", "sampler"]),
  losses: strip("frames so far", "", ["lost", "unread", "twice"]),
  latency: strip("latency, capture to picture", "s", ["plain", "sampler"]),
  frames: strip("frames a second", "", ["frames"]),
  rate: strip("images a second", "", ["plain", "sampler"]),
};

function count(panel) {
  const element = by(`panel-${panel}`);
  element.dataset.updates = Number(element.dataset.updates ?? 0) + 1;
}

const handlers = {
  hello(header) {
    ({ about, values } = header);
    by("about").textContent = `${about.radio} · layout ${about.layout}, ${about.rate_sps / 1e6} MS/s · bundle ${about.bundle}`;
    by("mute").hidden = !about.transmits;
    by("record").hidden = false;
    controls.build(header.controls, values);
    for (const [axis, labels] of Object.entries(waterfall.labels(about.rate_sps))) {
      by(`waterfall-${axis}`).replaceChildren(...labels.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
    }
    setRole(header.controls_link);
    for (const [name, value] of Object.entries(values)) setValue(name, value);
  },
  control: (header) => setRole(header.controls_link),
  controls(header) {
    controls.build(header.controls, header.values);
    controls.enable(controlling);
  },
  set: (header) => setValue(header.name, header.value),
  refused: (header) => tell(header.text, "error"),
  event: (header) => tell(header.text, header.level),
  status(header) {
    status[header.from] = header;
    const frames = status.receiver?.numbers;
    if (header.from === "receiver" && frames) {
      const now = performance.now() / 1e3;
      if (rateBase && now - rateBase.now > 0.2) strips.frames.add(Date.now() / 1e3, { frames: (frames.frames - rateBase.frames) / (now - rateBase.now) });
      rateBase = { frames: frames.frames, now };
      strips.losses.add(Date.now() / 1e3, { lost: frames.frames_lost, unread: frames.frames_unread, twice: frames.frames_twice });
    }
    if (header.from === "plain" || header.from === "sampler") {
      strips.rate.add(Date.now() / 1e3, { plain: status.plain?.numbers.images_per_s, sampler: status.sampler?.numbers.images_per_s });
    }
    count("status");
  },
  line(header, arrays) {
    const line = arrays.power_dbfs.data;
    waterfall.add(line);
    peak = peak ? peak.map((value, i) => Math.max(value - PEAK_FALL_DB, line[i])) : Float32Array.from(line);
    later("spectrum", () => {
      const rate = about?.rate_sps ?? 1e6;
      charts.spectrum.set([Array.from(line, (_, i) => ((i / line.length - 0.5) * rate) / 1e3), line, peak]);
      by("waterfall-title").textContent = waterfall.describe();
    });
    if (header.place !== undefined) controls.show("seek", header.place);
    count("spectrum");
  },
  frames(header) {
    for (const row of header.rows) {
      strips.csnr.add(row.time_s, { csnr: row.snr_db });
      strips.cfo.add(row.time_s, { cfo: row.cfo_hz });
      strips.sfo.add(row.time_s, { sfo: row.drift_ppm });
      strips.evm.add(row.time_s, { evm: row.evm_db });
      listFrame(row);
    }
    count("frames");
  },
  truth(header, arrays) {
    if (truths.at(-1)?.since_s === header.since_s) truths.pop();
    truths.push({ since_s: header.since_s, ...arrays });
    if (truths.length > TRUTHS_KEPT) truths.shift();
  },
  channel(header, arrays) {
    later("channel", () => {
      drawConstellation(by("before"), arrays.before.data);
      drawConstellation(by("after"), arrays.after.data);
      drawChannel(header, arrays);
    });
    count("constellation");
    count("channel");
  },
  original: (header, arrays) => images.original(header, arrays),
  images(header, arrays) {
    const plain = header.from === "plain";
    const rows = images.images(header, arrays, plain);
    const name = plain ? "plain" : "sampler";
    const mean = (key) => rows.map((row) => row[key]).filter(Number.isFinite).reduce((sum, value, _, all) => sum + value / all.length, 0);
    const any = (key) => rows.some((row) => Number.isFinite(row[key]));
    const add = (place, key) => { if (any(key)) strips[place].add(header.time_s, { [name]: mean(key) }); };
    add("residual", "residual");
    add("expected", "expected_psnr_db");
    add("psnr", "psnr_db");
    add("latency", "latency_s");
    strips.accepted.add(header.time_s, { [name]: (100 * rows.filter((row) => row.accepted).length) / rows.length });
    by(plain ? "images-title" : "sampler-title").textContent = `original, ${plain ? header.method : `${about?.plain}, ${header.method}, mean, spread`}`;
    count("images");
    count("strips");
  },
  progress: (header, arrays) => images.progress(header, arrays),
};

function take(header, arrays) {
  seen[header.kind] = (seen[header.kind] ?? 0) + 1;
  const always = ["hello", "control", "controls", "set", "event", "refused"].includes(header.kind);
  if (!frozen || always) handlers[header.kind]?.(header, arrays);
}

// Drawing waits for the screen, and what is out of date by then is left out.
const pending = new Map();
let slowlyDrawn = 0;
function later(name, draw) {
  pending.set(name, draw);
}
function paint() {
  for (const draw of pending.values()) draw();
  pending.clear();
  if (performance.now() - slowlyDrawn > SLOWLY_MS) {
    slowlyDrawn = performance.now();
    for (const one of Object.values(strips)) one.draw();
    if (!frozen) drawStatus();
  }
  setTimeout(() => requestAnimationFrame(paint), QUICKLY_MS);
}

function drawChannel(header, arrays) {
  // The taps that were on the air when the frame was captured.
  const truth = truths.findLast((one) => one.since_s <= header.captured_s - ON_THE_WAY_S);
  const active = new Set(about?.active ?? []);
  const size = arrays.response_db.data.length;
  const carriers = Array.from({ length: size }, (_, i) => i - size / 2);
  const only = (data) => Array.from(data, (value, i) => (active.has(carriers[i]) && Number.isFinite(value) ? value : null));
  // The estimate is in units of a frame's own power; so is the truth shown.
  const level = (data) => {
    const power = carriers.map((k, i) => (active.has(k) ? 10 ** (data[i] / 10) : 0)).reduce((a, b) => a + b, 0) / Math.max(1, active.size);
    return 10 * Math.log10(power);
  };
  const shift = truth ? level(truth.response_db.data) - level(arrays.response_db.data) : 0;
  charts.response.set([
    carriers, only(arrays.response_db.data), only(arrays.high_db.data), only(arrays.low_db.data),
    truth ? only(truth.response_db.data.map((value) => value - shift)) : carriers.map(() => null),
  ]);
  const taps = Array.from(arrays.taps.data), error = arrays.taps_std.data;
  const scale = 10 ** (-shift / 20);
  const known = taps.map((_, i) => truth?.taps.data[i - header.advance]);
  charts.taps.set([
    taps.map((_, i) => i - header.advance), taps,
    taps.map((value, i) => (Number.isFinite(error[i]) ? value + 2 * error[i] : null)),
    taps.map((value, i) => (Number.isFinite(error[i]) ? Math.max(0, value - 2 * error[i]) : null)),
    known.map((value) => (value === undefined ? null : value * scale)),
  ]);
}

function listFrame(row) {
  const line = document.createElement("tr");
  line.tabIndex = 0;
  const cells = [row.frame_number ?? "unread", row.snr_db?.toFixed(1), row.cfo_hz?.toFixed(0), row.evm_db?.toFixed(1), row.images.length];
  for (const text of cells) line.insertCell().textContent = text ?? "–";
  line.addEventListener("click", () => showFrame(row));
  line.addEventListener("keydown", (event) => { if (event.key === "Enter") showFrame(row); });
  by("frames").prepend(line);
  while (by("frames").children.length > FRAMES_LISTED) by("frames").lastChild.remove();
}

function showFrame(row) {
  const dialog = by("detail");
  dialog.querySelector("h2").textContent = `Frame ${row.frame_number ?? "without a readable header"}`;
  const body = dialog.querySelector("tbody");
  body.replaceChildren();
  const put = (name, value) => {
    const line = body.insertRow();
    line.insertCell().textContent = name;
    line.insertCell().textContent = typeof value === "number" ? Number(value.toPrecision(6)) : String(value ?? "–");
  };
  for (const [name, value] of Object.entries(row)) if (name !== "time_s") put(name, name === "images" ? value.join(", ") : value);
  // An image belongs to the frame whose first sample it names; a report counts from the first path.
  const found = [...images.found].filter(([start]) => Math.abs(start - row.start_sample) < 64).flatMap(([, rows]) => rows);
  for (const image of found) for (const [name, value] of Object.entries(image)) put(`${image.id} ${image.method} ${name}`, value);
  dialog.showModal();
}

function drawStatus() {
  const rows = [];
  for (const [name, { numbers, memory_mb }] of Object.entries(status)) {
    rows.push([name, memory_mb ? `${memory_mb} MB` : ""]);
    for (const [key, value] of Object.entries(numbers)) rows.push([`  ${key.replaceAll("_", " ")}`, Number.isFinite(value) ? Number(value.toFixed(3)) : "–"]);
  }
  by("status").replaceChildren(...rows.map(([name, value]) => {
    const line = document.createElement("tr");
    line.insertCell().textContent = name;
    line.insertCell().textContent = value;
    return line;
  }));
}

function setRole(controls_link) {
  controlling = controls_link;
  by("role").textContent = controlling ? "controls" : "watches";
  by("take-control").hidden = controlling;
  for (const id of ["mute", "record", "record-last", "snapshot"]) by(id).disabled = !controlling;
  controls.enable(controlling);
}

function setValue(name, value) {
  values[name] = value;
  if (name === "mute") {
    by("mute").setAttribute("aria-pressed", value);
    by("mute").textContent = value ? "MUTED" : "MUTE";
  } else if (name === "record") {
    by("record").setAttribute("aria-pressed", value);
    by("record").textContent = value ? "stop and save" : "record";
  } else {
    controls.show(name, value);
  }
}

function news(text, level) {
  by("news").hidden = false;
  by("news").textContent = text;
  by("news").className = level;
}

// News that the next one doesn't make forgotten.
function tell(text, level) {
  news(text, level);
  const item = document.createElement("li");
  item.textContent = `${new Date().toLocaleTimeString()} ${text}`;
  by("events").prepend(item);
  while (by("events").children.length > EVENTS_LISTED) by("events").lastChild.remove();
}

const actions = {
  mute: () => { if (!by("mute").disabled && about?.transmits) link.send({ set: "mute", value: !values.mute }); },
  record: () => { if (!by("record").disabled) link.send({ set: "record", value: !values.record }); },
  "record-last": () => { if (!by("record-last").disabled) link.send({ do: "record_last" }); },
  snapshot: () => { if (!by("snapshot").disabled) link.send({ do: "snapshot" }); },
  "take-control": () => link.send({ do: "take_control" }),
  freeze() {
    frozen = !frozen;
    by("freeze").setAttribute("aria-pressed", frozen);
    by("freeze").textContent = frozen ? "go on" : "freeze";
  },
  theme() {
    document.documentElement.classList.toggle("dark");
    repaint();
  },
};
for (const [id, action] of Object.entries(actions)) by(id).addEventListener("click", action);
onKeys({ m: actions.mute, r: actions.record, l: actions["record-last"], s: actions.snapshot, " ": actions.freeze, t: actions.theme });
if (matchMedia("(prefers-color-scheme: dark)").matches) document.documentElement.classList.add("dark");
addEventListener("resize", refit);
globalThis.otaLive = { seen, status, strips, values: () => values, send: (command) => link.send(command) };
requestAnimationFrame(paint);
