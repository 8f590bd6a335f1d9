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

function* runsOf(a, b) {  // from gap to gap
  const n = Math.min(a.length, b.length);
  for (let k = 0; k < n;) {
    while (k < n && !(a[k] === a[k] && b[k] === b[k])) k++;
    const first = k;
    while (k < n && a[k] === a[k] && b[k] === b[k]) k++;
    if (k > first) yield [first, k];
  }
}

export class SpectrumView {
  constructor(app) {
    this.app = app;
    Object.assign(this, {curves: [], ribbons: []});
    this.figure = new Figure(document.getElementById("spectrum"), {xLabel: "wavelength [µm]", yLabel: "flux density [Jy]"});
    for (const name of ["gaps", "sides", "hold", "names"]) this[name] = svg("g", {class: name}, this.figure.sheet);
  }

  show() {
    const {figure, app} = this, ground = svg("rect", {width: "100%", height: "100%", class: "ground"});
    figure.sheet.prepend(ground);
    drag(ground, figure, ([x], event) => {
      if (app.pull === "pan" || event.shiftKey) {
        return (_, [dx]) => figure.x.set(figure.x.start - dx, figure.x.end - dx);
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
    figure.onplace = () => this.draw();
    figure.onchange = () => app.ask("curve");
    figure.show();
  }

  whole() {
    const [low, high] = this.app.reach, pad = 0.01 * (high - low);
    this.figure.x.set(low - pad, high + pad);
  }

  zoom(middle, half) {
    this.figure.x.set(middle - half, middle + half);
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
    this.beside = [0, 1].map(k => {
      const rect = svg("rect", {y: 0, height: "100%", class: "side"}, this.sides);
      drag(rect, figure, () => (_, [dx]) => app.setSide(k, ...app.sideWindows[k].map(value => value + dx)));
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

  // Curves and errors of what is in view; the limits along y follow where they must.
  draw() {
    const {figure, app} = this;
    if (!figure.there) return;
    const {start, end} = figure.x, both = app.compare === "both", seen = cube => cube.wave[0] <= end && cube.wave.at(-1) >= start;
    const dots = wave => figure.width * (Math.min(end, wave.at(-1)) - Math.max(start, wave[0])) / (end - start);
    const curve = (wave, value, colour, width = 1.3) => { const [x, y] = thin(wave, value, start, end, dots(wave)); return {x, y, colour, width}; };
    const under = app.unit === "Jy" ? app.given.map(one => curve(one.wave, one.flux, "#808080", 1)) : [], bands = [], ribbons = [];
    for (const {cube, main, second} of app.spectra.filter(one => seen(one.cube))) {
      const ink = inkOf(cube.colour), [value, error] = app.shown(cube, main, second), other = second && both && app.shown(cube, second)[0];
      const [low, high] = [-1, 1].map(sign => value.map((v, k) => v + sign * error[k]));
      for (const part of cube.stretches) {
        const of = (values, colour = ink, width = 1.3) => curve(cube.wave.subarray(...part), values.subarray(...part), colour, width);
        bands.push(of(value));
        ribbons.push({low: of(low), high: of(high), colour: ink});
        if (other) under.push(of(other, "#e69f00", 1.2));
      }
    }
    this.reach([...under, ...bands]);
    const fitted = app.fit?.wave && (both || !app.regions.second) ? [{x: app.fit.wave, y: app.fit.model.map(v => app.inUnit(v)), colour: "#d62728", width: 2}] : [];
    Object.assign(this, {curves: [...under, ...bands, ...fitted], ribbons});
    this.paint();
    this.mark();
  }

  reach(curves) {
    const {x, y} = this.figure, all = [];
    for (const one of curves) for (let k = 0; k < one.x.length; k++) if (one.y[k] === one.y[k] && one.x[k] >= x.start && one.x[k] <= x.end) all.push(one.y[k]);
    if (!all.length) return;
    const sorted = Float64Array.from(all).sort(), low = sorted[Math.floor(0.003 * sorted.length)], high = sorted[Math.ceil(0.999 * (sorted.length - 1))];
    const room = high - low || Math.abs(high) || 1;  // they stay while they fit, so that axes do not tremble under the hand
    if (low > y.start && high < y.end && room > 0.6 * (y.end - y.start)) return;
    y.set(low - 0.1 * room, high + 0.3 * room);
  }

  paint() {
    const {canvas} = this.figure, context = canvas.getContext("2d"), dots = canvas.width / this.figure.width;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(dots, 0, 0, dots, 0, 0);
    context.lineJoin = "round";
    for (const [path, style] of this.paths(() => new Path2D())) {
      context.globalAlpha = style.alpha;
      if (style.fill) { context.fillStyle = style.colour; context.fill(path); }
      else { context.strokeStyle = style.colour; context.lineWidth = style.width; context.stroke(path); }
    }
  }

  // What is drawn, by pens with moveTo and lineTo: those of the canvas, or what writes SVG.
  *paths(pen) {
    const {x, y, width, height} = this.figure, ax = width / (x.end - x.start), ay = height / (y.end - y.start);
    const [px, py] = [a => (a - x.start) * ax, b => height - (b - y.start) * ay];
    for (const {low, high, colour} of this.ribbons) {
      const path = pen();
      for (const [first, last] of runsOf(low.y, high.y)) {
        path.moveTo(px(high.x[first]), py(high.y[first]));
        for (let k = first + 1; k < last; k++) path.lineTo(px(high.x[k]), py(high.y[k]));
        for (let k = last - 1; k >= first; k--) path.lineTo(px(low.x[k]), py(low.y[k]));
      }
      yield [path, {fill: true, colour, alpha: 0.25}];
    }
    for (const {x: xs, y: ys, colour, width: wide} of this.curves) {
      const path = pen();
      for (const [first, last] of runsOf(ys, ys)) {
        path.moveTo(px(xs[first]), py(ys[first]));
        for (let k = first + 1; k < last; k++) path.lineTo(px(xs[k]), py(ys[k]));
      }
      yield [path, {colour, width: wide, alpha: 1}];
    }
  }

  mark() {
    const {figure, app} = this, px = x => figure.toPx(x, 0)[0], [low, high] = app.window;
    const place = (rect, a, b) => { rect.setAttribute("x", Math.min(px(a), px(b))); rect.setAttribute("width", Math.max(px(b) - px(a), 1)); };
    place(this.body, low, high);
    this.ends.forEach((rect, k) => rect.setAttribute("x", px(app.window[k]) - 4));
    this.beside.forEach((rect, k) => {
      rect.setAttribute("visibility", app.sides.length ? "visible" : "hidden");
      if (app.sides.length) place(rect, ...app.sides[k]);
    });
    this.gaps.replaceChildren();
    for (const [a, b] of app.gaps()) {
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
