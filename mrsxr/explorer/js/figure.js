// A figure: axes, a canvas for what is drawn, a sheet for what is taken hold of; drags and zooms.
const SVG = "http://www.w3.org/2000/svg";

export function svg(name, attributes = {}, parent = null) {
  const out = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) out.setAttribute(key, value);
  if (parent) parent.append(out);
  return out;
}

export const colourOf = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

// A colour of the bands, lighter on a dark page.
export function inkOf(colour) {
  if (!isDark()) return colour;
  const parts = [1, 3, 5].map(k => Math.round(0.5 * parseInt(colour.slice(k, k + 2), 16) + 127));
  return `rgb(${parts.join(", ")})`;
}

const MARGIN = {left: 66, right: 8, top: 6, bottom: 44};

// Round numbers between two limits, about as many as wanted, and how many digits they need.
export function ticksOf(start, end, wanted) {
  const rough = Math.abs(end - start) / Math.max(wanted, 1), unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find(by => by * unit >= rough), out = [], digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  for (let k = Math.ceil(Math.min(start, end) / step); k * step <= Math.max(start, end); k++) out.push(k * step);
  return {ticks: out, digits};
}

export class Range {
  constructor(change) {
    Object.assign(this, {start: 0, end: 1, change});
  }

  set(start, end) {
    if (start === this.start && end === this.end) return;
    Object.assign(this, {start, end});
    this.change();
  }
}

// Axes, a canvas for what is drawn, and a sheet of SVG over it for what is taken hold of.
export class Figure {
  constructor(box, {xLabel, yLabel, xSign = 1}) {
    Object.assign(this, {box, xLabel, yLabel, xSign, width: 1, height: 1, onchange: () => {}, onplace: () => {}});
    const change = () => { if (this.there) { this.drawAxes(); this.onchange(); } };
    this.x = new Range(change);
    this.y = new Range(change);
    this.axes = svg("svg", {class: "axes", "aria-hidden": "true"});
    this.canvas = document.createElement("canvas");
    this.sheet = svg("svg", {class: "sheet"});
    box.append(this.axes, this.canvas, this.sheet);
  }

  show() {
    this.there = true;
    this.place();
    new ResizeObserver(() => this.place()).observe(this.box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.onchange());
  }

  place() {
    const {left, right, top, bottom} = MARGIN, whole = [this.box.clientWidth, this.box.clientHeight], dots = window.devicePixelRatio || 1;
    this.width = Math.max(whole[0] - left - right, 1);
    this.height = Math.max(whole[1] - top - bottom, 1);
    for (const element of [this.canvas, this.sheet]) {
      Object.assign(element.style, {left: `${left}px`, top: `${top}px`, width: `${this.width}px`, height: `${this.height}px`});
    }
    this.canvas.width = Math.round(this.width * dots);
    this.canvas.height = Math.round(this.height * dots);
    this.sheet.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.axes.setAttribute("viewBox", `0 0 ${whole[0]} ${whole[1]}`);
    this.onplace();
    this.drawAxes();
    this.onchange();
  }

  drawAxes() {
    const {left, top} = MARGIN, {width, height, axes} = this, text = (x, y, words, more) => { svg("text", {x, y, ...more}, axes).textContent = words; };
    const number = (value, digits) => value.toFixed(digits).replace(/^-(0(\.0*)?)$/, "$1").replace("-", "−");
    axes.replaceChildren();
    const xs = ticksOf(this.x.start, this.x.end, Math.max(width / 90, 4)), ys = ticksOf(this.y.start, this.y.end, height / 60);
    for (const value of xs.ticks) {
      const x = left + this.toPx(value, 0)[0];
      svg("line", {class: "grid", x1: x, x2: x, y1: top, y2: top + height}, axes);
      text(x, top + height + 16, number(this.xSign * value, xs.digits), {"text-anchor": "middle"});
    }
    const large = Math.max(...ys.ticks.map(Math.abs), 0), power = large && (large >= 1e5 || large < 1e-2) ? Math.floor(Math.log10(large)) : 0;
    for (const value of ys.ticks) {
      const y = top + this.toPx(0, value)[1];
      svg("line", {class: "grid", x1: left, x2: left + width, y1: y, y2: y}, axes);
      text(left - 7, y + 4, number(value / 10 ** power, Math.max(ys.digits + power, 0)), {"text-anchor": "end"});
    }
    svg("rect", {class: "frame", x: left, y: top, width, height}, axes);
    text(left + width / 2, top + height + 36, this.xLabel, {"text-anchor": "middle", class: "label"});
    const scale = power ? ` × 10${String(power).replace("-", "⁻").replace(/\d/g, d => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d])}` : "";
    text(0, 0, this.yLabel + (scale && ` (${scale.slice(1)})`), {"text-anchor": "middle", class: "label", transform: `translate(13 ${top + height / 2}) rotate(-90)`});
  }

  toPx(x, y) {
    return [(x - this.x.start) / (this.x.end - this.x.start) * this.width,
      this.height - (y - this.y.start) / (this.y.end - this.y.start) * this.height];
  }

  fromEvent(event, box = this.sheet.getBoundingClientRect()) {
    const px = (event.clientX - box.left) / box.width, py = 1 - (event.clientY - box.top) / box.height;
    return [this.x.start + px * (this.x.end - this.x.start), this.y.start + py * (this.y.end - this.y.start)];
  }
}

// Follow a pointer from where it went down; each move gives the place now and the step since the last.
export function drag(element, figure, begin) {
  element.addEventListener("pointerdown", event => {
    if (event.button) return;
    const follow = begin(figure.fromEvent(event), event);
    if (!follow) return;
    event.preventDefault();
    event.stopPropagation();
    element.focus?.({preventScroll: true});
    const box = figure.sheet.getBoundingClientRect();  // asked for once: it makes the browser lay out the page
    let last = figure.fromEvent(event, box);
    const moved = now => { const here = figure.fromEvent(now, box); follow(here, [here[0] - last[0], here[1] - last[1]]); last = figure.fromEvent(now, box); };
    const ended = () => { for (const [name, call] of [["pointermove", moved], ["pointerup", ended], ["pointercancel", ended]]) window.removeEventListener(name, call); };
    window.addEventListener("pointermove", moved);
    window.addEventListener("pointerup", ended);
    window.addEventListener("pointercancel", ended);
  });
}

export function zoomRange(range, at, factor, limits) {
  let start = at + (range.start - at) * factor, end = at + (range.end - at) * factor;
  if (limits && end - start > limits[1] - limits[0]) [start, end] = limits;
  range.set(start, end);
}
