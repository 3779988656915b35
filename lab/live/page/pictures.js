// Everything that is drawn pixel by pixel: pictures, constellations, the waterfall.

// Cividis, coarsely: a map that colour-blind people read as others do.
const CIVIDIS = [[0, 32, 77], [0, 45, 108], [57, 72, 107], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [255, 233, 69]];

function mapped(share) {
  const place = Math.min(1, Math.max(0, share)) * (CIVIDIS.length - 1);
  const low = Math.min(CIVIDIS.length - 2, Math.floor(place));
  return CIVIDIS[low].map((value, i) => value + (CIVIDIS[low + 1][i] - value) * (place - low));
}

const MAP = Array.from({ length: 256 }, (_, i) => mapped(i / 255));

// pixels: Uint8Array of an image (height, width, channels).
export function drawImage(canvas, pixels, [height, width, channels]) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[i * channels + (channels === 3 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

export function psnrDb(a, b) {
  if (!a || !b || a.length !== b.length) return NaN;
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) ** 2;
  return 10 * Math.log10(255 ** 2 / Math.max(sum / a.length, 1e-9));
}

// cells: Float32Array of pairs; the view reaches three times the root mean square.
export function drawConstellation(canvas, cells) {
  const side = Math.max(120, Math.round(canvas.clientWidth * devicePixelRatio));
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  context.strokeStyle = style.getPropertyValue("--rule");
  context.beginPath();
  context.moveTo(side / 2, 0); context.lineTo(side / 2, side);
  context.moveTo(0, side / 2); context.lineTo(side, side / 2);
  context.stroke();
  let power = 0;
  for (const value of cells) power += value * value;
  const scale = side / 6 / Math.sqrt(Math.max(1e-12, (2 * power) / cells.length));
  const dot = Math.max(1.5, side / 130);
  context.fillStyle = style.getPropertyValue("--blue");
  context.globalAlpha = 0.7;
  for (let i = 0; i < cells.length; i += 2) {
    context.fillRect(side / 2 + cells[i] * scale - dot / 2, side / 2 - cells[i + 1] * scale - dot / 2, dot, dot);
  }
}

// Lines of spectra, the newest on top; the scale follows what is there.
export class Waterfall {
  constructor(canvas, secondsShown = 12, linesPerSecond = 20) {
    this.canvas = canvas;
    this.lines = secondsShown * linesPerSecond;
    this.secondsShown = secondsShown;
    this.low = null;
  }

  add(line) {
    const { canvas } = this;
    if (canvas.width !== line.length || canvas.height !== this.lines) {
      canvas.width = line.length;
      canvas.height = this.lines;
    }
    const sorted = Float32Array.from(line).sort();
    const floor = sorted[sorted.length >> 2], top = sorted.at(-1);
    this.low = this.low === null ? floor : this.low + 0.05 * (floor - this.low);
    this.high = Math.max(top, (this.high ?? top) - 0.1, this.low + 10);
    const context = canvas.getContext("2d");
    context.drawImage(canvas, 0, 1);
    const row = context.createImageData(line.length, 1);
    for (let i = 0; i < line.length; i++) {
      const [r, g, b] = MAP[Math.min(255, Math.max(0, Math.round((255 * (line[i] - this.low + 3)) / (this.high - this.low + 3))))];
      row.data.set([r, g, b, 255], 4 * i);
    }
    context.putImageData(row, 0, 0);
  }

  describe() {
    return this.low === null ? "" : `${this.low.toFixed(0)} to ${this.high.toFixed(0)} dBFS`;
  }

  // Labels of the axes, from the first to the last: seconds ago, and kHz.
  labels(rate) {
    const along = (from, to, unit) => [0, 0.25, 0.5, 0.75, 1].map((share) => `${Number((from + share * (to - from)).toFixed(1))}${unit}`);
    return { times: along(0, this.secondsShown, " s"), frequencies: along(-rate / 2e3, rate / 2e3, " kHz") };
  }
}
