// Which pixels of which exposures made a spaxel at the wavelength of the window; a row leads to the ramp of its pixel.
import {svg} from "./figure.js";
import {middleOf} from "./region.js";
import {at} from "./panels.js";
import {post} from "./served.js";

const HEADS = ["", "exposure", "x", "y", "slice", "wavelength [µm]", "share", "value [MJy/sr]", "flags"];

export class Behind {
  constructor(app) {
    Object.assign(this, {app, found: null, asked: ""});
    this.mark = svg("path", {class: "spaxel", tabindex: "0", role: "application", "aria-label": "Spaxel whose pixels are shown. Arrows go to the next one."});
    this.mark.addEventListener("keydown", event => {
      const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
      if (!step) return;
      event.preventDefault();
      const {scale} = this.cube.grid;
      this.pick([this.place[0] + step[0] * scale, this.place[1] + step[1] * scale]);
    });
    at("forget").addEventListener("click", () => this.forget());
  }

  get cube() { return this.app.cube.fixed ? this.app.windowCube() ?? this.app.cubes[0] : this.app.cube; }

  // From the tool on, so that no pointer is needed: the middle of the region is the first place.
  start() {
    if (!this.place) this.pick(middleOf(this.app.regions.main));
    this.app.sky.layer.append(this.mark);
  }

  pick(place) {
    this.place = place;
    this.follow();
  }

  forget() {
    Object.assign(this, {place: null, found: null, asked: ""});
    this.mark.remove();
    this.show("");
  }

  get question() {
    const {app, cube} = this, [x, y] = cube.grid.toPixel(...this.place).map(Math.round);
    const wave = app.windowCube() === cube ? app.middleWave : 0.5 * (cube.wave[0] + cube.wave.at(-1));
    let plane = 0;
    for (let k = 1; k < cube.planes; k++) if (Math.abs(cube.wave[k] - wave) < Math.abs(cube.wave[plane] - wave)) plane = k;
    return {cube: cube.name, x, y, plane};
  }

  // After each change of place, window or cube.
  follow() {
    if (!this.place) return;
    const question = this.question, key = JSON.stringify(question), {cube} = this;
    this.draw();
    if (key === this.asked) return;
    this.asked = key;
    if (question.x < 0 || question.y < 0 || question.x >= cube.nx || question.y >= cube.ny) return this.show(`there is no spaxel of ${cube.name} here`);
    this.app.asker.put("behind", async () => {
      try {
        const found = await post("behind", question);
        if (key === this.asked) this.take(question, found);
      } catch (error) { this.show(error.message); }
    });
  }

  draw() {
    const {cube, app} = this, [x, y] = cube.grid.toPixel(...this.place).map(Math.round);
    const corners = [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]].map(([i, j]) => app.sky.figure.toPx(...cube.grid.toPlane(x + i, y + j)));
    this.mark.setAttribute("d", `M${corners.map(p => p.join(" ")).join("L")}Z`);
  }

  take({cube, x, y, plane}, found) {
    this.found = found;
    const wave = this.app.cubes.find(one => one.name === cube).wave[plane], n = found.pixels.length;
    const number = value => value === null ? "no value" : `${value.toPrecision(5)} MJy/sr`;
    const exposures = new Set(found.pixels.map(pixel => pixel.exposure)).size;
    const what = n ? `${n} pixels of ${exposures} of ${found.exposures} exposures, their weighted mean ${number(found.mean)}` : "no pixel reaches it";
    this.show(`Spaxel (${x}, ${y}) of ${cube} at ${wave.toFixed(4)} µm: ${number(found.value)}; ${what}`);
    if (n) this.app.detector.open(found.pixels[0]);
  }

  show(text) {
    const {found} = this, few = text && found ? found.pixels : [];
    at("told-behind").textContent = text;
    at("to-detector").hidden = at("forget").hidden = !text;
    at("behind").tBodies[0].replaceChildren(...few.length ? [this.row("th", HEADS), ...few.map(pixel => this.row("td", [pixel, pixel.exposure, pixel.x, pixel.y,
      `${pixel.slice % 100} of channel ${Math.floor(pixel.slice / 100)}`, pixel.wavelength,
      pixel.used ? `${(100 * pixel.share).toFixed(1)} %` : "left out", pixel.value, pixel.flags]))] : []);
  }

  row(tag, cells) {
    const row = document.createElement("tr");
    for (const cell of cells) {
      const element = document.createElement(tag);
      if (typeof cell !== "object") element.textContent = cell;
      else {
        const button = Object.assign(document.createElement("button"), {type: "button", textContent: "ramp"});
        button.setAttribute("aria-label", `Ramp of pixel x ${cell.x}, y ${cell.y} of ${cell.exposure}`);
        button.addEventListener("click", () => this.app.detector.goTo(cell));
        element.append(button);
      }
      row.append(element);
    }
    return row;
  }
}
