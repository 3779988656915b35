// Line charts: spectrum, channel, and strips over time. Colours come from the style sheet.
const { uPlot } = globalThis; // vendor/uPlot.iife.min.js

const charts = new Set();

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// series: {label, colour, dash, points, band}; colours are names of the style sheet, so that themes can change.
export function chart(element, { title, height, x, unit, series, bands, time = false, range }) {
  const axis = (more) => ({ stroke: () => colour("faint"), grid: { stroke: () => colour("rule"), width: 0.5 }, ticks: { stroke: () => colour("rule") }, font: "11px system-ui", ...more });
  const options = {
    title,
    width: Math.max(200, element.clientWidth),
    height,
    pxAlign: 0,
    cursor: { drag: { x: false, y: false } },
    // The legend is drawn once: its colours follow the theme by themselves.
    legend: { show: series.length > 1, live: false, markers: { stroke: (plot, i) => `var(--${series[i - 1]?.colour ?? "faint"})` } },
    scales: { x: { time }, y: range ? { range } : {} },
    axes: [axis({ label: x, labelSize: x ? 14 : 0, labelFont: "11px system-ui", size: 26 }), axis({ label: unit, labelSize: unit ? 14 : 0, labelFont: "11px system-ui", size: 44 })],
    series: [{ label: x ?? "time" }, ...series.map((one) => ({
      label: one.label,
      stroke: () => colour(one.colour),
      width: one.points ? 0 : 1.5,
      dash: one.dash,
      points: { show: Boolean(one.points), size: 4, fill: () => colour(one.colour) },
      paths: one.points ? () => null : undefined,
      spanGaps: true,
    }))],
    bands: (bands ?? []).map((band) => ({ series: band, fill: () => colour("blue") + "44" })),
  };
  const plot = new uPlot(options, [[], ...series.map(() => [])], element);
  const entry = { plot, element, height };
  charts.add(entry);
  return { set: (data) => plot.setData(data) };
}

export function refit() {
  for (const { plot, element, height } of charts) plot.setSize({ width: Math.max(200, element.clientWidth), height });
}

export function repaint() {
  for (const { plot } of charts) plot.redraw();
}

const KEPT_S = 60;

// A chart of the last minute of some numbers.
export class Strip {
  constructor(parent, title, unit, names) {
    const element = document.createElement("div");
    element.dataset.strip = title;
    parent.append(element);
    const colours = ["blue", "orange", "green"];
    this.names = names;
    this.times = [];
    this.values = names.map(() => []);
    this.chart = chart(element, {
      title: unit ? `${title}, ${unit}` : title, height: 130, time: true,
      series: names.map((label, i) => ({ label, colour: colours[i], dash: i === 1 ? [6, 3] : undefined })),
    });
  }

  add(time, values) {
    if (this.times.length && time <= this.times.at(-1)) time = this.times.at(-1) + 1e-3;
    this.times.push(time);
    this.names.forEach((name, i) => this.values[i].push(Number.isFinite(values[name]) ? values[name] : null));
    const old = this.times.findIndex((t) => t > time - KEPT_S);
    if (old > 32) for (const list of [this.times, ...this.values]) list.splice(0, old);
    this.fresh = true;
  }

  draw() {
    if (this.fresh) this.chart.set([this.times, ...this.values]);
    this.fresh = false;
  }
}
