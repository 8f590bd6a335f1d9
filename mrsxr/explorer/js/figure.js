// A Bokeh figure with an SVG sheet over its frame: axes and curves are Bokeh's, what is taken hold of is on the sheet.
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

function dress(figure) {
  const ink = colourOf("--ink"), rule = colourOf("--rule"), soft = colourOf("--soft");
  for (const axis of [...figure.below, ...figure.left].filter(model => "major_label_text_color" in model)) {
    Object.assign(axis, {major_label_text_color: soft, axis_label_text_color: ink, axis_line_color: rule, major_tick_line_color: rule,
      minor_tick_line_color: null, axis_label_text_font_style: "normal", major_label_text_font_size: "12px",
      axis_label_text_font_size: "13px", axis_label_text_font: "system-ui, sans-serif", major_label_text_font: "system-ui, sans-serif"});
  }
  for (const grid of figure.center.filter(model => "grid_line_color" in model)) grid.grid_line_color = rule, grid.grid_line_alpha = 0.45;
  figure.outline_line_color = rule;
  figure.border_fill_color = colourOf("--page");
  if ("border_line_color" in figure) figure.border_line_color = null;
}

export class Figure {
  // options: those of Bokeh's figure; bare: a canvas lies below the frame (images).
  constructor(box, options) {
    const {Range1d, Plotting} = window.Bokeh;
    this.box = box;
    this.x = new Range1d({start: 0, end: 1});
    this.y = new Range1d({start: 0, end: 1});
    this.model = Plotting.figure({x_range: this.x, y_range: this.y, tools: "", toolbar_location: null, sizing_mode: "stretch_both",
      background_fill_alpha: 0, ...options});
    this.model.output_backend = "canvas";
    this.canvas = document.createElement("canvas");
    this.host = document.createElement("div");
    this.host.className = "bokeh-host";
    this.sheet = svg("svg", {class: "sheet"});
    box.append(this.canvas, this.host, this.sheet);
    this.onchange = () => {};
  }

  async show() {
    dress(this.model);
    this.view = await window.Bokeh.Plotting.show(this.model, this.host);
    this.place();
    const again = () => this.place();
    new ResizeObserver(again).observe(this.box);
    for (const name of ["inner_width", "inner_height"]) this.model.properties[name].change.connect(again);
    for (const range of [this.x, this.y]) range.change.connect(() => this.onchange());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { dress(this.model); this.onchange(); });
  }

  place() {
    const frame = this.view.frame.bbox, style = {left: `${frame.left}px`, top: `${frame.top}px`, width: `${frame.width}px`, height: `${frame.height}px`};
    Object.assign(this.canvas.style, style);
    Object.assign(this.sheet.style, style);
    this.width = Math.max(frame.width, 1);
    this.height = Math.max(frame.height, 1);
    const dots = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.width * dots);
    this.canvas.height = Math.round(this.height * dots);
    this.sheet.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.onplace?.();
    this.onchange();
  }

  toPx(x, y) {
    return [(x - this.x.start) / (this.x.end - this.x.start) * this.width,
      this.height - (y - this.y.start) / (this.y.end - this.y.start) * this.height];
  }

  fromEvent(event) {
    const box = this.sheet.getBoundingClientRect();
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
    let last = figure.fromEvent(event);
    const moved = now => { const here = figure.fromEvent(now); follow(here, [here[0] - last[0], here[1] - last[1]]); last = figure.fromEvent(now); };
    const ended = () => { for (const [name, call] of [["pointermove", moved], ["pointerup", ended], ["pointercancel", ended]]) window.removeEventListener(name, call); };
    window.addEventListener("pointermove", moved);
    window.addEventListener("pointerup", ended);
    window.addEventListener("pointercancel", ended);
  });
}

export function zoomRange(range, at, factor, limits) {
  let start = at + (range.start - at) * factor, end = at + (range.end - at) * factor;
  if (limits && end - start > limits[1] - limits[0]) [start, end] = limits;
  range.setv({start, end});
}
