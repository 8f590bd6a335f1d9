// The spectrum of the region over all bands, its errors, the window and the side windows, the lines of the list.
import {Figure, drag, inkOf, svg, zoomRange} from "./figure.js";

// Lowest and highest value in each dot of the screen where there are more samples than dots; gaps stay.
export function thin(x, y, low, high, dots) {
  let first = 0, last = x.length;
  while (first < last && x[first] < low) first++;
  while (last > first && x[last - 1] > high) last--;
  first = Math.max(first - 1, 0);
  last = Math.min(last + 1, x.length);
  const per = Math.floor((last - first) / (2 * Math.max(dots, 1)));
  if (per < 2) return [Array.from(x.subarray(first, last)), Array.from(y.subarray(first, last))];
  const outX = [], outY = [];
  for (let k = first; k < last; k += per) {
    let least = k, most = k, gap = -1;
    for (let i = k; i < Math.min(k + per, last); i++) {
      if (y[i] !== y[i]) { gap = i; continue; }
      if (!(y[i] >= y[least])) least = i;
      if (!(y[i] <= y[most])) most = i;
    }
    const use = [least, most, ...(gap < 0 ? [] : [gap])].sort((a, b) => a - b);
    for (const i of use) { outX.push(x[i]); outY.push(y[i]); }
  }
  return [outX, outY];
}

function ribbons(x, low, high) {  // closed outlines of the runs between gaps
  const xs = [], ys = [];
  for (let k = 0; k < x.length;) {
    while (k < x.length && !(low[k] === low[k] && high[k] === high[k])) k++;
    const first = k;
    while (k < x.length && low[k] === low[k] && high[k] === high[k]) k++;
    if (k - first > 1) {
      const part = x.slice(first, k);
      xs.push([...part, ...part.slice().reverse()]);
      ys.push([...high.slice(first, k), ...low.slice(first, k).reverse()]);
    }
  }
  return [xs, ys];
}

export class SpectrumView {
  constructor(app) {
    this.app = app;
    this.make();
  }

  make() {
    const {ColumnDataSource} = window.Bokeh, source = data => new ColumnDataSource({data});
    this.figure = new Figure(document.getElementById("spectrum"), {x_axis_label: "wavelength [µm]", y_axis_label: "flux density [Jy]"});
    const {model} = this.figure;
    this.band = source({xs: [], ys: [], colour: []});
    this.curve = source({xs: [], ys: [], colour: []});
    this.second = source({xs: [], ys: []});
    this.given = source({xs: [], ys: []});
    this.model = source({x: [], y: []});
    model.patches({source: this.band, xs: {field: "xs"}, ys: {field: "ys"}, fill_color: {field: "colour"}, fill_alpha: 0.25, line_color: null});
    model.multi_line({source: this.given, xs: {field: "xs"}, ys: {field: "ys"}, line_color: "#808080", line_width: 1});
    model.multi_line({source: this.second, xs: {field: "xs"}, ys: {field: "ys"}, line_color: "#E69F00", line_width: 1.2});
    model.multi_line({source: this.curve, xs: {field: "xs"}, ys: {field: "ys"}, line_color: {field: "colour"}, line_width: 1.3});
    model.line({source: this.model, x: {field: "x"}, y: {field: "y"}, line_color: "#d62728", line_width: 2});
    for (const name of ["gaps", "sides", "hold", "names"]) this[name] = svg("g", {class: name}, this.figure.sheet);
  }

  async show() {
    const {figure, app} = this, ground = svg("rect", {width: "100%", height: "100%", class: "ground"});
    figure.sheet.prepend(ground);
    drag(ground, figure, ([x], event) => {
      if (app.pull === "pan" || event.shiftKey) {
        return (_, [dx]) => figure.x.setv({start: figure.x.start - dx, end: figure.x.end - dx});
      }
      return ([now]) => app.setWindow(Math.min(x, now), Math.max(x, now));
    });
    figure.box.addEventListener("wheel", event => {
      event.preventDefault();
      zoomRange(figure.x, figure.fromEvent(event)[0], Math.exp(Math.sign(event.deltaY) * 0.2), app.reach);
    }, {passive: false});
    figure.sheet.addEventListener("dblclick", () => this.whole());
    this.makeWindow();
    this.whole();
    figure.onchange = () => app.ask("curve");
    await figure.show();
  }

  whole() {
    const [low, high] = this.app.reach, pad = 0.01 * (high - low);
    this.figure.x.setv({start: low - pad, end: high + pad});
  }

  zoom(middle, half) {
    this.figure.x.setv({start: middle - half, end: middle + half});
  }

  makeWindow() {
    const {app, figure} = this;
    this.window = svg("g", {class: "window", tabindex: "0", role: "application",
      "aria-label": "Window of wavelength. Left and right move it by a plane, with shift by its width; plus and minus change its width."}, this.hold);
    this.body = svg("rect", {y: 0, height: "100%", class: "body"}, this.window);
    drag(this.body, figure, () => (_, [dx]) => app.setWindow(app.window[0] + dx, app.window[1] + dx));
    this.ends = [0, 1].map(end => {
      const rect = svg("rect", {y: 0, width: 8, height: "100%", class: "end"}, this.window);
      drag(rect, figure, () => ([x]) => { const next = [...app.window]; next[end] = x; app.setWindow(Math.min(...next), Math.max(...next)); });
      return rect;
    });
    this.window.addEventListener("keydown", event => {
      const [low, high] = app.window, step = event.shiftKey ? high - low : app.step();
      const next = {ArrowLeft: [low - step, high - step], ArrowRight: [low + step, high + step], "+": [low - step, high + step],
        "-": high - low > 2 * step ? [low + step, high - step] : [low, high]}[event.key];
      if (!next) return;
      event.preventDefault();
      app.setWindow(...next);
    });
  }

  // Curves and errors of what is in view; the limits along y follow.
  draw() {
    const {figure, app} = this;
    if (!figure.view) return;
    const {start, end} = figure.x, xs = [], ys = [], colour = [], bandX = [], bandY = [], bandC = [];
    let low = Infinity, high = -Infinity;
    const reach = (x, y) => {
      const inside = y.filter((v, k) => v === v && x[k] >= start && x[k] <= end).sort((a, b) => a - b);
      if (!inside.length) return;
      low = Math.min(low, inside[Math.floor(0.005 * inside.length)]);
      high = Math.max(high, inside[Math.ceil(0.998 * (inside.length - 1))]);
    };
    for (const {cube, main, second} of app.spectra) {
      if (cube.wave[0] > end || cube.wave.at(-1) < start) continue;
      const dots = figure.width * (Math.min(end, cube.wave.at(-1)) - Math.max(start, cube.wave[0])) / (end - start);
      const ink = inkOf(cube.colour), [value, error] = app.shown(cube, main, second);
      const [x, y] = thin(cube.wave, value, start, end, dots);
      xs.push(x);
      ys.push(y);
      colour.push(ink);
      const [, least] = thin(cube.wave, value.map((v, k) => v - error[k]), start, end, dots);
      const [, most] = thin(cube.wave, value.map((v, k) => v + error[k]), start, end, dots);
      const n = Math.min(x.length, least.length, most.length), [rx, ry] = ribbons(x.slice(0, n), least.slice(0, n), most.slice(0, n));
      bandX.push(...rx);
      bandY.push(...ry);
      bandC.push(...rx.map(() => ink));
      reach(x, y);
    }
    this.curve.data = {xs, ys, colour};
    this.band.data = {xs: bandX, ys: bandY, colour: bandC};
    this.drawOthers(start, end).forEach(([x, y]) => reach(x, y));
    if (high >= low) {
      const pad = 0.07 * (high - low || Math.abs(high) || 1), next = {start: low - pad, end: high + 2 * pad};
      if (next.start !== figure.y.start || next.end !== figure.y.end) figure.y.setv(next);
    }
    this.mark();
  }

  drawOthers(start, end) {
    const {app, figure} = this, xs = [], ys = [];
    for (const {cube, second} of app.spectra) {
      if (!second || app.compare !== "both" || cube.wave[0] > end || cube.wave.at(-1) < start) continue;
      const [x, y] = thin(cube.wave, app.shown(cube, second)[0], start, end, figure.width / 2);
      xs.push(x);
      ys.push(y);
    }
    this.second.data = {xs, ys};
    const given = app.unit === "Jy" ? app.given.map(one => thin(one.wave, one.flux, start, end, figure.width / 2)) : [];
    this.given.data = {xs: given.map(one => one[0]), ys: given.map(one => one[1])};
    const fit = app.fit?.wave ? app.fit : {wave: [], model: []};
    const model = app.compare === "both" || !app.regions.second ? fit.model.map(value => app.inUnit(value)) : fit.model.map(() => NaN);
    this.model.data = {x: fit.wave, y: model};
    return [...xs.map((x, k) => [x, ys[k]]), ...given];
  }

  mark() {
    const {figure, app} = this, px = x => figure.toPx(x, 0)[0], [low, high] = app.window;
    const place = (rect, a, b) => { rect.setAttribute("x", Math.min(px(a), px(b))); rect.setAttribute("width", Math.max(px(b) - px(a), 1)); };
    place(this.body, low, high);
    this.ends.forEach((rect, k) => rect.setAttribute("x", px(app.window[k]) - 4));
    this.sides.replaceChildren();
    for (const [a, b] of app.sides) place(svg("rect", {y: 0, height: "100%", class: "side"}, this.sides), a, b);
    this.gaps.replaceChildren();
    for (const [a, b] of app.gaps) {
      if (px(b) > 0 && px(a) < figure.width) place(svg("rect", {y: figure.height - 6, height: 6, class: "gap"}, this.gaps), a, b);
    }
    this.names.replaceChildren();
    let last = -Infinity;
    for (const line of app.linesIn(figure.x.start, figure.x.end)) {
      const x = px(line.mu0);
      svg("line", {x1: x, x2: x, y1: x - last > 14 ? 104 : 4, y2: figure.height}, this.names);
      if (x - last <= 14) continue;
      last = x;
      svg("text", {transform: `translate(${x + 4} 100) rotate(-90)`}, this.names).textContent = line.label;
    }
  }
}
