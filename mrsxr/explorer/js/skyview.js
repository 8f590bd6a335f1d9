// The images on the sky: one large, the others small beside it, all of the same field.
import {Figure, drag, svg, zoomRange} from "./figure.js";
import {cornersOf, grow, move} from "./region.js";
import {decText, gridOf, raText, toSky} from "./sky.js";

const FINE = 5, LEAST = 400;  // points of a picture along the side of a spaxel, and of a field
const LENGTHS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50];
export const STRETCHES = {
  linear: t => t, sqrt: t => Math.sqrt(Math.max(t, 0)), asinh: t => Math.asinh(t / 0.05) / Math.asinh(20),
  log: t => Math.log1p(Math.max(t, 0) / 0.005) / Math.log1p(200),
};

// Which spaxel each point of the field's picture shows; north is up, east to the left.
export function rasterOf(cube, field) {
  const fine = Math.max(FINE, Math.ceil(LEAST * cube.grid.scale / (field[1] - field[0]))), step = cube.grid.scale / fine, w = Math.ceil((field[1] - field[0]) / step), h = Math.ceil((field[3] - field[2]) / step);
  const spaxel = new Int32Array(w * h).fill(-1);
  for (let j = 0, n = 0; j < h; j++) {
    for (let i = 0; i < w; i++, n++) {
      const [x, y] = cube.grid.toPixel(field[0] + (i + 0.5) * step, field[3] - (j + 0.5) * step).map(Math.round);
      if (x >= 0 && y >= 0 && x < cube.nx && y < cube.ny && cube.place[y * cube.nx + x] >= 0) spaxel[n] = y * cube.nx + x;
    }
  }
  const canvas = document.createElement("canvas");
  Object.assign(canvas, {width: w, height: h});
  return {step, w, h, spaxel, canvas};
}

export function limitsOf(image, cut) {
  const values = Float32Array.from(image.filter(Number.isFinite)).sort(), n = values.length;
  if (!n) return [0, 1];
  const at = share => values[Math.min(n - 1, Math.max(0, Math.round(share * (n - 1))))];
  const [low, high] = [at((100 - cut) / 200), at(1 - (100 - cut) / 200)];
  return high > low ? [low, high] : [low - 0.5, low + 0.5];
}

export function paint(cube, image, limits, stretch, palette) {
  const {w, h, spaxel, canvas} = cube.raster, context = canvas.getContext("2d");
  const data = context.createImageData(w, h), points = new Uint32Array(data.data.buffer), colour = new Uint32Array(image.length);
  const of = STRETCHES[stretch], span = limits[1] - limits[0];
  for (let s = 0; s < image.length; s++) {
    const t = of((image[s] - limits[0]) / span);
    colour[s] = Number.isFinite(t) ? palette[Math.min(255, Math.max(0, Math.floor(t * 256)))] : 0x50808080;
  }
  for (let n = 0; n < spaxel.length; n++) if (spaxel[n] >= 0) points[n] = colour[spaxel[n]];
  context.putImageData(data, 0, 0);
}

export function fieldOf(cubes, frame) {
  const u = [], v = [];
  for (const cube of cubes) {
    cube.grid = gridOf(cube, frame);
    for (const x of [-0.5, cube.nx - 0.5]) for (const y of [-0.5, cube.ny - 0.5]) {
      const [a, b] = cube.grid.toPlane(x, y);
      u.push(a);
      v.push(b);
    }
  }
  return [Math.min(...u), Math.max(...u), Math.min(...v), Math.max(...v)];
}

const NAMES = {main: "Region", second: "Second region", ring: "Background"};

export class SkyView {
  constructor(app) {
    this.app = app;
    this.points = null;
    this.figure = new Figure(document.getElementById("sky"), {xLabel: "offset to the east [″]", yLabel: "offset to the north [″]", xSign: -1});
    this.small = new Map();
    this.layer = svg("g", {}, this.figure.sheet);
    this.marks = svg("g", {class: "marks", "aria-hidden": "true"}, this.figure.sheet);
    this.shapes = {};
  }

  show() {
    const {figure, app} = this, ground = svg("rect", {width: "100%", height: "100%", class: "ground"});
    figure.sheet.prepend(ground);
    drag(ground, figure, place => this.press(place));
    figure.box.addEventListener("wheel", event => {
      event.preventDefault();
      const [u, v] = figure.fromEvent(event), factor = Math.exp(Math.sign(event.deltaY) * 0.15);
      zoomRange(figure.x, u, factor);
      zoomRange(figure.y, v, factor);
    }, {passive: false});
    figure.sheet.addEventListener("pointermove", event => this.tell(figure.fromEvent(event)));
    figure.sheet.addEventListener("dblclick", () => app.tool === "polygon" ? this.close() : this.whole());
    figure.onplace = () => this.ratio();
    figure.onchange = () => this.redraw();
    this.whole(false);
    figure.show();
  }

  whole(now = true) {
    const [u0, u1, v0, v1] = this.app.field, pad = 0.03 * Math.max(u1 - u0, v1 - v0);
    this.figure.x.set(u0 - pad, u1 + pad);
    this.figure.y.set(v0 - pad, v1 + pad);
    if (now) this.ratio();
  }

  ratio() {  // square arcseconds: the shorter side grows
    const {x, y, width, height} = this.figure, sx = (x.end - x.start) / width, sy = (y.end - y.start) / height;
    if (Math.abs(sx / sy - 1) < 1e-6) return;
    const [range, size] = sx > sy ? [y, sx * height] : [x, sy * width], middle = 0.5 * (range.start + range.end);
    range.set(middle - size / 2, middle + size / 2);
  }

  press(place) {
    const {app} = this;
    if (app.tool === "pan") {
      return (_, [du, dv]) => {
        this.figure.x.set(this.figure.x.start - du, this.figure.x.end - du);
        this.figure.y.set(this.figure.y.start - dv, this.figure.y.end - dv);
      };
    }
    if (app.tool === "pixels") {
      app.detector.behind.pick(place);
      return now => app.detector.behind.pick(now);
    }
    if (app.tool === "polygon") {
      this.points = [...(this.points ?? []), place];
      this.redraw();
      return () => {};
    }
    const [u, v] = place;
    return ([x, y]) => {
      const a = Math.max(Math.abs(x - u), 0.05), b = Math.max(Math.abs(y - v), 0.05), round = Math.max(Math.hypot(x - u, y - v), 0.05);
      const region = app.tool === "circle" ? {kind: "circle", u, v, a: round, b: round, angle: 0} : {kind: app.tool, u, v, a, b, angle: 0};
      app.setRegion(app.active === "ring" ? {...region, kind: "annulus", a: round, b: round, inner: 0.7 * round} : region);
    };
  }

  close() {  // the polygon that is being drawn
    if (this.points?.length > 2) this.app.setRegion({kind: "polygon", points: this.points});
    this.points = null;
    this.redraw();
  }

  tell([u, v]) {
    const {app} = this, [ra, dec] = toSky(app.frame, u, v), [x, y] = app.cube.grid.toPixel(u, v).map(Math.round);
    const value = x >= 0 && y >= 0 && x < app.cube.nx && y < app.cube.ny ? app.cube.image[y * app.cube.nx + x] : NaN;
    const inside = Number.isFinite(value) ? ` · ${app.cube.name} (${x}, ${y}): ${value.toPrecision(4)} ${app.cube.unit ?? "MJy/sr"}` : "";
    document.getElementById("under").textContent = `RA ${raText(ra)} Dec ${decText(dec)}${inside}`;
  }

  // All that lies in the frame: the image, the marks, the regions, the small images.
  redraw() {
    const {figure, app} = this;
    if (!figure.there || !app.cube) return;
    this.draw(figure.canvas, app.cube, [figure.x.start, figure.x.end, figure.y.start, figure.y.end]);
    this.mark();
    this.drawRegions();
    for (const cube of [...app.cubes, ...app.maps]) this.drawSmall(cube);
  }

  inSmall() {  // middle and half width of the small images: what the large one shows
    const {x, y} = this.figure;
    return [0.5 * (x.start + x.end), 0.5 * (y.start + y.end), 0.5 * Math.min(x.end - x.start, y.end - y.start)];
  }

  draw(canvas, cube, [u0, u1, v0, v1]) {
    const context = canvas.getContext("2d"), {raster} = cube, [f0, , , f3] = this.app.field;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    const sx = canvas.width / (u1 - u0), sy = canvas.height / (v1 - v0);
    context.drawImage(raster.canvas, (f0 - u0) * sx, (v1 - f3) * sy, raster.w * raster.step * sx, raster.h * raster.step * sy);
  }

  drawSmall(cube) {
    let small = this.small.get(cube.name);
    if (!small) this.small.set(cube.name, small = this.makeSmall(cube));
    const [u, v, half] = this.inSmall();
    this.draw(small.canvas, cube, [u - half, u + half, v - half, v + half]);
    this.outlineSmall(small);
    small.button.setAttribute("aria-pressed", cube === this.app.cube);
  }

  outlineSmall(small) {
    const [u, v, half] = this.inSmall();
    for (const [name, path] of Object.entries(small.paths)) {
      const region = this.app.regions[name];
      path.setAttribute("d", region ? this.outline(region, (a, b) => [50 * (a - u + half) / half, 50 * (v + half - b) / half]) : "");
    }
  }

  makeSmall(cube) {
    const button = document.createElement("button"), canvas = document.createElement("canvas"), name = document.createElement("span");
    Object.assign(canvas, {width: 150, height: 150});
    button.type = "button";
    name.textContent = cube.name;
    button.title = cube.file || cube.name;
    button.setAttribute("aria-label", `Show ${cube.name}`);
    const sheet = svg("svg", {viewBox: "0 0 100 100"}), paths = {};
    for (const key of Object.keys(NAMES)) paths[key] = svg("path", {class: `outline ${key}`}, sheet);
    button.append(canvas, sheet, name);
    button.addEventListener("click", () => this.app.choose(cube));
    document.getElementById("bands").append(button);
    return {button, canvas, paths};
  }

  outline(region, toPx) {
    const ring = (a, b) => Array.from({length: 49}, (_, k) => {
      const t = Math.PI * k / 24, c = Math.cos(region.angle), s = Math.sin(region.angle), i = a * Math.cos(t), j = b * Math.sin(t);
      return [region.u + i * c - j * s, region.v + i * s + j * c];
    });
    const parts = region.points || region.kind === "box" ? [cornersOf(region)] : [ring(region.a, region.b)];
    if (region.kind === "annulus") parts.push(ring(region.inner, region.inner));
    return parts.map(points => "M" + points.map(p => toPx(...p).map(value => value.toFixed(1)).join(" ")).join("L") + "Z").join("");
  }

  // Shapes on the sheet, made once each, with their handles.
  drawRegions() {
    const toPx = (u, v) => this.figure.toPx(u, v);
    for (const name of Object.keys(NAMES)) {
      const region = this.app.regions[name];
      let shape = this.shapes[name];
      if (shape && (!region || shape.kind !== region.kind || shape.size !== (region.points?.length ?? 0))) {
        shape.group.remove();
        shape = this.shapes[name] = null;
      }
      if (!region) continue;
      if (!shape) shape = this.shapes[name] = this.makeShape(name, region);
      shape.path.setAttribute("d", this.outline(region, toPx));
      shape.handles.forEach((handle, number) => {
        const [x, y] = toPx(...shape.places[number](this.app.regions[name]));
        handle.setAttribute("cx", x);
        handle.setAttribute("cy", y);
      });
      shape.group.setAttribute("aria-label", `${NAMES[name]}: ${region.kind}. Arrows move it, plus and minus change its size, brackets turn it.`);
    }
    const d = this.points?.length ? "M" + this.points.map(p => toPx(...p).join(" ")).join("L") : "";
    (this.rubber ??= svg("path", {class: "outline rubber"}, this.layer)).setAttribute("d", d);
    for (const small of this.small.values()) this.outlineSmall(small);
    this.app.detector?.follow();
  }

  makeShape(name, region) {
    const {app, figure} = this, group = svg("g", {class: `shape ${name}`, tabindex: "0", role: "application"}, this.layer);
    const path = svg("path", {class: `outline ${name}`, "fill-rule": "evenodd"}, group);
    const set = change => app.setRegion(change(app.regions[name]), name);
    drag(path, figure, () => { app.activate(name); return (_, [du, dv]) => set(now => move(now, du, dv)); });
    group.addEventListener("keydown", event => this.key(event, name));
    group.addEventListener("focus", () => app.activate(name));
    const places = [], handles = [];
    const handle = (where, change) => {
      const dot = svg("circle", {class: "handle", r: 5}, group);
      drag(dot, figure, () => place => set(now => change(now, place)));
      places.push(where);
      handles.push(dot);
    };
    const along = (now, turn, size) => [now.u + size * Math.cos(now.angle + turn), now.v + size * Math.sin(now.angle + turn)];
    const far = (now, [u, v]) => Math.max(Math.hypot(u - now.u, v - now.v), 0.03);
    if (region.kind === "polygon") {
      region.points.forEach((_, k) => handle(now => now.points[k], (now, place) => ({...now, points: now.points.map((p, i) => i === k ? place : p)})));
    } else if (region.kind === "circle" || region.kind === "annulus") {
      handle(now => along(now, 0, now.a), (now, place) => { const a = far(now, place); return {...now, a, b: a, ...(now.inner && {inner: Math.min(now.inner, 0.95 * a)})}; });
      if (region.kind === "annulus") handle(now => along(now, Math.PI, now.inner), (now, place) => ({...now, inner: Math.min(far(now, place), 0.95 * now.a)}));
    } else {
      handle(now => along(now, 0, now.a), (now, place) => ({...now, a: far(now, place), angle: Math.atan2(place[1] - now.v, place[0] - now.u)}));
      handle(now => along(now, Math.PI / 2, now.b), (now, place) => ({...now, b: far(now, place)}));
    }
    return {group, path, places, handles, kind: region.kind, size: region.points?.length ?? 0};
  }

  key(event, name) {
    const {app} = this, step = app.cube.grid.scale * (event.shiftKey ? 5 : 0.5), now = app.regions[name];
    const turned = by => now.points ? now : {...now, angle: now.angle + by};
    const change = {
      ArrowLeft: () => move(now, -step, 0), ArrowRight: () => move(now, step, 0), ArrowUp: () => move(now, 0, step),
      ArrowDown: () => move(now, 0, -step), "+": () => grow(now, 1.1), "=": () => grow(now, 1.1), "-": () => grow(now, 1 / 1.1),
      "[": () => turned(0.05), "]": () => turned(-0.05), Delete: () => name === "main" ? now : null,
    }[event.key];
    if (!change) return;
    event.preventDefault();
    app.setRegion(change(), name);
  }

  mark() {  // scale bar, compass and the size of a point source
    const {figure, app} = this, per = figure.width / (figure.x.end - figure.x.start), {width: w, height: h} = figure;
    const length = LENGTHS.filter(value => value * per < 0.3 * w).at(-1) ?? 0.1, fwhm = app.fwhm(app.middle());
    const bar = length * per, beam = Math.max(fwhm * per / 2, 1), text = (x, y, words, anchor = "middle") => {
      svg("text", {x, y, "text-anchor": anchor}, this.marks).textContent = words;
    };
    this.marks.replaceChildren();
    svg("line", {x1: w - 14 - bar, x2: w - 14, y1: h - 14, y2: h - 14}, this.marks);
    text(w - 14 - bar / 2, h - 20, `${length}″`);
    svg("circle", {class: "beam", cx: 12 + beam, cy: h - 12 - beam, r: beam}, this.marks);
    svg("path", {d: "M50 46V18M46 23L50 16L54 23M50 46H22M27 42L20 46L27 50", class: "compass"}, this.marks);
    text(50, 13, "N");
    text(14, 50, "E");
  }
}
