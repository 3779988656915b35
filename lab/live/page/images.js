// Originals, and what each method made of what came, side by side.
import { drawImage, psnrDb } from "./pictures.js";

const KEPT = 1500;
const SHOWN = 4;

const part = ({ data, shape }, index) => {
  const size = shape[1] * shape[2] * shape[3];
  return { pixels: data.subarray(index * size, (index + 1) * size), shape: shape.slice(1) };
};

function cell(picture, caption) {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas");
  drawImage(canvas, picture.pixels, picture.shape);
  const text = document.createElement("figcaption");
  text.textContent = text.title = caption;
  figure.append(canvas, text);
  return figure;
}

const number = (value, digits = 1) => (Number.isFinite(value) ? value.toFixed(digits) : "–");

export class Images {
  constructor(newest, sampled, sharpening) {
    Object.assign(this, { newest, sampled, sharpening });
    this.originals = new Map();
    this.plain = new Map();
    this.found = new Map(); // frame number -> rows of images, for the list of frames
  }

  original(header, arrays) {
    this.originals.set(header.id, { pixels: arrays.image.data, shape: arrays.image.shape });
    trim(this.originals);
  }

  // Returns the rows with the true PSNR, where the original is known.
  images(header, arrays, isPlain) {
    const rows = header.rows.map((row) => ({ ...row, method: header.method, psnr_db: NaN }));
    const shown = [];
    for (let i = 0; i < arrays.images.shape[0]; i++) {
      const row = rows[header.first + i], picture = part(arrays.images, i);
      const original = this.originals.get(row.id);
      row.psnr_db = original ? psnrDb(original.pixels, picture.pixels) : NaN;
      if (isPlain) this.plain.set(`${row.start_sample}:${row.id}`, { picture, row });
      const more = ["means", "spreads"].filter((name) => arrays[name]).map((name) => part(arrays[name], i));
      shown.push({ row, original, picture, more });
    }
    for (const row of rows) {
      if (!this.found.has(row.start_sample)) this.found.set(row.start_sample, []);
      const list = this.found.get(row.start_sample).filter((one) => one.id !== row.id || one.method !== row.method);
      this.found.set(row.start_sample, [...list, row]);
    }
    trim(this.found);
    trim(this.plain);
    this.draw(isPlain ? this.newest : this.sampled, shown.slice(-SHOWN), isPlain);
    return rows;
  }

  draw(place, shown, isPlain) {
    place.replaceChildren(...shown.map(({ row, original, picture, more }) => {
      const group = document.createElement("div");
      group.className = "image";
      if (original) group.append(cell(original, row.id));
      const plain = this.plain.get(`${row.start_sample}:${row.id}`);
      if (!isPlain && plain) group.append(cell(plain.picture, `${plain.row.method} ${number(plain.row.psnr_db)} dB`));
      group.append(cell(picture, `${row.method} ${number(row.psnr_db)} dB`));
      if (more.length) group.append(cell(more[0], "mean"), cell(more[1], "spread × 4"));
      return group;
    }));
  }

  progress(header, arrays) {
    this.sharpening.hidden = false;
    drawImage(this.sharpening.querySelector("canvas"), arrays.image.data, arrays.image.shape);
    this.sharpening.querySelector("figcaption").textContent = `${header.id}: ${header.method}, step ${header.step} of ${header.steps}`;
  }
}

function trim(map) {
  while (map.size > KEPT) map.delete(map.keys().next().value);
}
