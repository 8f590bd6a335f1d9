// The detector behind the cubes: a frame with its slices, the pixels of a spaxel, and what is known of a pixel.
import {Behind} from "./behind.js";
import {Figure, colourOf, svg, zoomRange} from "./figure.js";
import {at} from "./panels.js";
import {post} from "./served.js";
import {fromSky} from "./sky.js";

export class DetectorView {
  constructor(app) {
    this.app = app;
    this.behind = new Behind(app);
    this.mark = svg("path", {class: "cross", "aria-hidden": "true"}, app.sky?.layer);
    const select = at("exposure");
    for (const {name, products} of app.facts.exposures) for (const product of products) select.append(new Option(`${name} ${product}`, JSON.stringify([name, product])));
    at("detector").hidden = !app.facts.exposures.length;
    select.addEventListener("change", () => this.load());
    at("detector").addEventListener("toggle", () => { if (at("detector").open && !this.figure) this.make(); });
  }

  make() {
    const figure = this.figure = new Figure(at("frame"), {xLabel: "x [pixel]", yLabel: "y [pixel]"});
    this.ramp = new Figure(at("ramp"), {xLabel: "time [s]", yLabel: "counts [DN]"});
    figure.x.set(-0.5, 1031.5);
    figure.y.set(-0.5, 1023.5);
    figure.onchange = () => this.draw();
    this.ramp.onchange = () => this.drawRamp();
    figure.sheet.setAttribute("tabindex", "0");
    figure.sheet.setAttribute("role", "application");
    figure.sheet.setAttribute("aria-label", "Detector. A click takes a pixel, arrow keys go to the next one.");
    figure.box.addEventListener("wheel", event => {
      event.preventDefault();
      const [x, y] = figure.fromEvent(event), factor = Math.exp(Math.sign(event.deltaY) * 0.2);
      zoomRange(figure.x, x, factor, [-0.5, 1031.5]);
      zoomRange(figure.y, y, factor, [-0.5, 1023.5]);
    }, {passive: false});
    figure.sheet.addEventListener("dblclick", () => { figure.x.set(-0.5, 1031.5); figure.y.set(-0.5, 1023.5); });
    figure.sheet.addEventListener("click", event => this.take(...figure.fromEvent(event).map(Math.round)));
    figure.sheet.addEventListener("keydown", event => {
      const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
      if (!step || !this.place) return;
      event.preventDefault();
      this.take(this.place[0] + step[0], this.place[1] + step[1]);
    });
    figure.show();
    this.ramp.show();
    this.load();
  }

  async open(pixel) {  // the frame of a pixel, close to it
    at("detector").open = true;
    if (!this.figure) this.make();
    await this.choose(pixel.exposure);
    this.around(pixel);
  }

  async goTo(pixel) {
    await this.open(pixel);
    await this.take(pixel.x, pixel.y);
    at("ramp").scrollIntoView({block: "nearest"});
  }

  async choose(name) {
    const options = [...at("exposure").options], mine = options.find(option => JSON.parse(option.value)[0] === name);
    if (!mine || this.exposure[0] === name) return;
    at("exposure").value = mine.value;
    this.place = null;
    await this.load();
  }

  around({x, y}) {
    const {figure} = this, half = Math.min(24, 0.5 * (figure.x.end - figure.x.start));
    figure.x.set(x - half, x + half);
    figure.y.set(y - half, y + half);
  }

  get exposure() { return JSON.parse(at("exposure").value); }

  async load() {
    const [exposure, product] = this.exposure;
    try {
      const {nx, codes, unit, low, high} = await post("frame", {exposure, product}), raw = atob(codes), ny = raw.length / nx, palette = this.app.palettes.viridis;
      const canvas = this.image = Object.assign(document.createElement("canvas"), {width: nx, height: ny}), context = canvas.getContext("2d");
      const data = context.createImageData(nx, ny), points = new Uint32Array(data.data.buffer);
      for (let k = 0; k < raw.length; k++) {
        const code = raw.charCodeAt(k), place = (ny - 1 - Math.floor(k / nx)) * nx + k % nx;
        points[place] = code === 0 ? 0x50808080 : code === 255 ? 0xffffffff : palette[code];
      }
      context.putImageData(data, 0, 0);
      at("told-frame").textContent = `${exposure} ${product}: ${low.toPrecision(3)} to ${high.toPrecision(3)} ${unit}; slices in white`;
      this.draw();
    } catch (error) { this.app.panels.say(error.message); }
    if (this.place) this.take(...this.place);
  }

  follow() {  // on the sky: the pixel that was taken, and the spaxel whose pixels are shown
    const {sky} = this.found ?? {}, {figure} = this.app.sky;
    const [x, y] = sky ? figure.toPx(...fromSky(this.app.frame, ...sky)) : [-99, -99];
    this.mark.setAttribute("d", `M${x - 5} ${y - 5}L${x + 5} ${y + 5}M${x - 5} ${y + 5}L${x + 5} ${y - 5}`);
    this.behind.follow();
  }

  draw() {
    const {figure, image} = this;
    if (!image || !figure.there) return;
    const context = figure.canvas.getContext("2d"), sx = figure.canvas.width / (figure.x.end - figure.x.start), sy = figure.canvas.height / (figure.y.end - figure.y.start);
    context.clearRect(0, 0, figure.canvas.width, figure.canvas.height);
    context.imageSmoothingEnabled = sx < 1;
    context.drawImage(image, (-0.5 - figure.x.start) * sx, (figure.y.end - image.height + 0.5) * sy, image.width * sx, image.height * sy);
    figure.sheet.replaceChildren();
    const name = this.exposure[0], mine = this.behind.found?.pixels.filter(pixel => pixel.exposure === name) ?? [];
    for (const pixel of mine) {
      const [x0, y0] = figure.toPx(pixel.x - 0.5, pixel.y + 0.5), [x1, y1] = figure.toPx(pixel.x + 0.5, pixel.y - 0.5);
      svg("rect", {class: "made", x: x0, y: y0, width: x1 - x0, height: y1 - y0, "fill-opacity": 0.15 + 0.7 * pixel.share / mine[0].share}, figure.sheet);
    }
    if (!this.place) return;
    const [x, y] = figure.toPx(...this.place);
    svg("path", {class: "cross", d: `M${x - 14} ${y}H${x - 4}M${x + 4} ${y}H${x + 14}M${x} ${y - 14}V${y - 4}M${x} ${y + 4}V${y + 14}`}, figure.sheet);
  }

  async take(x, y) {
    try {
      this.found = await post("pixel", {exposure: this.exposure[0], x, y});
    } catch (error) { return this.app.panels.say(error.message); }
    this.place = [x, y];
    this.draw();
    this.follow();
    at("pixel").replaceChildren(...[["pixel", `x ${x}, y ${y}`], ...this.found.facts].flatMap(([name, value]) => [["dt", name], ["dd", value]].map(([tag, text]) => {
      const element = document.createElement(tag);
      element.textContent = text;
      return element;
    })));
    const {ramp} = this.found;
    at("ramp").style.visibility = ramp ? "visible" : "hidden";
    if (!ramp) return;
    const all = ramp.counts.flat().filter(Number.isFinite), [low, high] = [Math.min(...all), Math.max(...all)], room = high - low || 1;
    this.ramp.x.set(0, ramp.step * (ramp.counts[0].length * ramp.counts.length + 1));
    this.ramp.y.set(low - 0.08 * room, high + 0.08 * room);
    this.drawRamp();
  }

  drawRamp() {
    const {ramp: figure, found} = this, ramp = found?.ramp;
    figure.sheet.replaceChildren();
    if (!ramp) return;
    ramp.counts.forEach((row, number) => {
      const time = k => ramp.step * (number * row.length + k + 1), seen = row.map((v, k) => k).filter(k => row[k] !== null);
      const d = seen.map((k, n) => `${n ? "L" : "M"}${figure.toPx(time(k), row[k]).join(" ")}`).join("");
      svg("path", {d, fill: "none", stroke: colourOf("--link"), "stroke-width": 1.2}, figure.sheet);
      if (ramp.slope !== null && seen.length) {
        const good = seen.filter(k => !ramp.flags[number][k]), use = good.length ? good : seen, mean = f => use.reduce((sum, k) => sum + f(k), 0) / use.length;
        const middle = mean(time), level = mean(k => row[k]), ends = [time(0), time(row.length - 1)].map(t => figure.toPx(t, level + ramp.slope * (t - middle)).join(" "));
        svg("path", {d: `M${ends.join("L")}`, fill: "none", stroke: "#d62728", "stroke-width": 1.5, "stroke-dasharray": "6 3"}, figure.sheet);
      }
      for (const k of seen) {
        const [cx, cy] = figure.toPx(time(k), row[k]), flag = ramp.flags[number][k], dot = svg("circle", {cx, cy, r: flag ? 5 : 3, class: flag ? "flagged" : "sample"}, figure.sheet);
        if (flag) svg("title", {}, dot).textContent = flag;
      }
    });
  }
}
