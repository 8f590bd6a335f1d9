// The explorer: what is shown, and how a change of one thing goes to the others.
import {KM_S, fitLine} from "./fit.js";
import {Panels} from "./panels.js";
import {makeRegion, regionText, weightsOf} from "./region.js";
import {SkyView, fieldOf, limitsOf, paint, rasterOf} from "./skyview.js";
import {SpectrumView} from "./spectrumview.js";
import {frameOf, gridOf} from "./sky.js";
import {pictureOf, pngOf, tableOf} from "./save.js";
import {readCube} from "./store.js";
import {imageOf, lessBackground, planesIn, spectrumOf, sumsOf} from "./sums.js";

const FIT_WINDOW = 2500;  // km/s, half width, that of lines.fit_line

function interpolate(x, grid, values) {
  const at = Math.min(Math.max((x - grid[0]) / (grid[1] - grid[0]), 0), grid.length - 1.001), k = Math.floor(at);
  return values[k] + (at - k) * (values[k + 1] - values[k]);
}

export class Explorer {
  constructor(facts) {
    Object.assign(this, {facts, cubes: [], maps: [], regions: {main: null, second: null, ring: null}, active: "main", tool: "circle", pull: "window",
      z: facts.redshift, window: [0, 0], sideWindows: null, mode: "all", unit: "Jy", compare: "both", showLines: true, fit: null,
      components: 1, perBand: {}, dirty: new Set(), updates: 0});
    this.given = facts.spectra.map(one => ({wave: Float64Array.from(one.wave), flux: Float64Array.from(one.flux, value => value ?? NaN)}));
  }

  get middleWave() { return 0.5 * (this.window[0] + this.window[1]); }
  get spectra() { return this.cubes.filter(cube => cube.spectrum).map(cube => ({cube, main: cube.spectrum.main, second: cube.spectrum.second})); }
  get reach() { return [Math.min(...this.cubes.map(c => c.lo[0])), Math.max(...this.cubes.map(c => c.hi.at(-1)))]; }
  middle() { return this.windowCube() === this.cube ? this.middleWave : 0.5 * (this.cube.wave[0] + this.cube.wave.at(-1)); }
  step() { const cube = this.windowCube() ?? this.cube; return cube.wave[1] - cube.wave[0]; }
  fwhm(wave) { return interpolate(wave, this.facts.law.wave, this.facts.law.fwhm); }
  instrument(wave) { return KM_S / (2 * Math.sqrt(2 * Math.log(2)) * interpolate(wave, this.facts.law.wave, this.facts.law.power)); }

  // The cube that holds the middle of the window, the chosen one first.
  windowCube() {
    const holds = cube => cube.lo[0] <= this.middleWave && cube.hi.at(-1) >= this.middleWave;
    return [this.cube, ...this.cubes].find(cube => cube && holds(cube));
  }

  get sides() { return this.mode === "line" ? this.sideWindows : []; }

  placeSides() {  // on both sides of the window; they stay when it is dragged along a line
    const [low, high] = this.window, width = high - low;
    this.sideWindows = [[low - 1.5 * width, low - 0.5 * width], [high + 0.5 * width, high + 1.5 * width]];
  }

  linesIn(low, high) {
    if (!this.showLines) return [];
    const rank = high - low > 6 ? 1 : high - low > 2 ? 2 : 3;
    return this.facts.lines.map(line => ({...line, mu0: line.wave * (1 + this.z)}))
      .filter(line => line.mu0 >= low && line.mu0 <= high && line.rank <= rank);
  }

  line() {  // that of the list nearest to the middle of the window, else the middle itself
    const [low, high] = this.window, near = line => Math.abs(line.mu0 / this.middleWave - 1) * KM_S < 1000;
    const inside = this.facts.lines.map(line => ({...line, mu0: line.wave * (1 + this.z)}))
      .filter(line => line.kind !== "PAH" && (near(line) || line.mu0 >= low && line.mu0 <= high));
    inside.sort((a, b) => Math.abs(a.mu0 - this.middleWave) - Math.abs(b.mu0 - this.middleWave));
    const found = inside[0] ?? {label: "", wave: this.middleWave / (1 + this.z), mu0: this.middleWave};
    return {...found, window: FIT_WINDOW, instrument: this.instrument(found.mu0)};
  }

  async start() {
    const {facts} = this;
    this.panels = new Panels(this);
    if (!facts.cubes.length) return this.panels.say("There is no cube to show; the reasons stand above.");
    this.palettes = Object.fromEntries(Object.entries(facts.palettes).map(([name, text]) => [name, Uint32Array.from({length: 256}, (_, k) => {
      const rgb = parseInt(text.slice(6 * k, 6 * k + 6), 16);
      return (0xff000000 | (rgb & 255) << 16 | (rgb & 0xff00) | rgb >> 16) >>> 0;
    })]));
    this.frame = frameOf(...facts.cubes[0].crval);
    this.field = fieldOf(facts.cubes, this.frame);
    for (const [number, one] of facts.cubes.entries()) {
      this.panels.say(`Reading ${one.name} …`);
      this.take(await this.read(one, number));
      if (!number) this.begin();
      await new Promise(done => setTimeout(done));  // the browser draws what there is
    }
    for (const map of facts.maps) this.takeMap(map);
    this.view.whole();
    this.panels.say("");
  }

  async read(facts, number) {
    const element = document.getElementById(`cube-${number}`), cube = await readCube(facts, element.textContent);
    element.remove();  // the text is not needed any more
    return cube;
  }

  take(cube) {
    cube.look = {stretch: "asinh", cut: 99.5, low: null, high: null, map: "viridis"};
    cube.raster = rasterOf(cube, this.field);
    this.cubes.push(cube);
    this.makeImage(cube);
    for (const name of ["ring", "main", "second"]) this.measureIn(cube, name);
    if (this.sky) this.ask("all");
  }

  takeMap(map) {  // an image like that of a cube, without planes
    const image = Float32Array.from(map.values, value => value ?? NaN), signed = map.name.includes("velocity");
    Object.assign(map, {image, fixed: true, planes: 0, lo: [Infinity], hi: [-Infinity], wave: [map.wavelength],
      place: Int32Array.from(image, value => value === value ? 0 : -1), grid: gridOf(map, this.frame),
      look: {stretch: signed ? "linear" : "asinh", cut: 99.5, low: null, high: null, map: signed ? "RdBu_r" : "viridis"}});
    map.raster = rasterOf(map, this.field);
    this.makeImage(map);
    this.maps.push(map);
    this.ask("sky");
  }

  setSide(number, low, high) {
    this.sideWindows = this.sideWindows.map((side, k) => k === number ? [low, high] : side);
    this.ask("window");
  }

  begin() {
    const cube = this.cube = this.cubes[0], middle = cube.planes >> 1;
    this.window = [cube.wave[Math.max(middle - 5, 0)], cube.wave[Math.min(middle + 5, cube.planes - 1)]];
    const [u, v] = this.brightest();
    const most = 0.45 * Math.min(cube.nx, cube.ny) * cube.grid.scale;  // in a small field it stays inside
    this.regions.main = makeRegion("circle", u, v, Math.min(Math.max(1.5 * this.fwhm(this.middle()), 3 * cube.grid.scale), most));
    this.measure("main");
    this.sky = new SkyView(this);
    this.view = new SpectrumView(this);
    this.panels.fill();
    this.sky.show();
    this.view.show();
    this.update();
    this.firstPicture = performance.now();
  }

  brightest() {  // place of the brightest spaxel of the first image, of a median of 3 x 3 so that it is no hot one
    const {nx, ny, image, grid} = this.cube;
    let best = -Infinity, place = [(nx - 1) / 2, (ny - 1) / 2];
    for (let y = 1; y < ny - 1; y++) for (let x = 1; x < nx - 1; x++) {
      const near = [];
      for (let j = -1; j < 2; j++) for (let i = -1; i < 2; i++) near.push(image[(y + j) * nx + x + i]);
      const value = near.some(v => v !== v) ? -Infinity : near.sort((p, q) => p - q)[4];
      if (value > best) [best, place] = [value, [x, y]];
    }
    return grid.toPlane(...place);
  }

  // --- what is measured ---

  makeImage(cube) {
    if (cube.fixed) return this.colour(cube);
    const [a, b] = planesIn(cube, ...this.window), here = this.mode !== "all" && b > a;
    const sides = here ? this.sides.map(side => planesIn(cube, ...side)) : [];
    cube.image = imageOf(cube, here ? [a, b] : [0, cube.planes], sides);
    cube.inWindow = here;
    this.colour(cube);
  }

  colour(cube) {
    const {look} = cube, auto = limitsOf(cube.image, look.cut);
    cube.limits = [look.low ?? auto[0], look.high ?? auto[1]];
    paint(cube, cube.image, cube.limits, look.stretch, this.palettes[look.map]);
  }

  measure(name) {
    for (const cube of this.cubes) this.measureIn(cube, name);
    this.fit = null;
  }

  measureIn(cube, name) {
    const region = this.regions[name], raw = cube.raw ??= {}, weights = region && weightsOf(region, cube, cube.grid);
    if (weights?.index.length) {
      const sums = sumsOf(cube, weights, raw[name]?.sums);
      raw[name] = {...spectrumOf(cube, sums, weights.area), sums, weights};
    } else raw[name] = null;
    const less = key => raw[key] && raw.ring ? lessBackground(cube, raw[key], raw.ring) : raw[key];
    cube.spectrum = raw.main ? {main: less("main"), second: less("second")} : null;
  }

  gaps() {
    const out = [];
    for (const {cube, main} of this.spectra) {
      for (let k = 0; k < cube.planes; k++) {
        if (main.flux[k] === main.flux[k]) continue;
        const first = k;
        while (k + 1 < cube.planes && main.flux[k + 1] !== main.flux[k + 1]) k++;
        out.push([cube.lo[first], cube.hi[k]]);
      }
    }
    return out;
  }

  perUnit(cube, k, one) { return this.unit === "Jy" ? 1 : 1 / (1e6 * cube.solid * one.seen[k]); }
  // Values and errors of a region as they are drawn; of a second one beside it their difference or ratio.
  shown(cube, one, second = null) {
    const values = [one.flux, one.error].map(part => part.map((value, k) => value * this.perUnit(cube, k, one)));
    if (!second || this.compare === "both") return values;
    const [other, error] = [second.flux, second.error].map(part => part.map((value, k) => value * this.perUnit(cube, k, second)));
    if (this.compare === "difference") return [values[0].map((v, k) => v - other[k]), values[1].map((e, k) => Math.hypot(e, error[k]))];
    const ratio = values[0].map((v, k) => v / other[k]);
    return [ratio, ratio.map((r, k) => Math.abs(r) * Math.hypot(values[1][k] / values[0][k], error[k] / other[k]))];
  }
  inUnit(value) {
    const cube = this.fit.cube, seen = cube.spectrum.main.seen;
    return this.unit === "Jy" ? value : value / (1e6 * cube.solid * seen[planesIn(cube, ...this.window)[0]]);
  }

  fitNow() {
    const cube = this.windowCube(), line = this.line();
    if (!cube?.spectrum) return this.fit = {problem: "the window holds no spectrum of the region"};
    const spectrum = {...cube.spectrum.main, lo: cube.lo, hi: cube.hi};
    this.fit = {...fitLine(spectrum, line, this.components, cube.alike), line, cube};
    this.ask("curve");
    this.panels.showFit();
    return this.fit;
  }

  // --- what is changed ---

  setRegion(region, name = this.active) {
    this.regions[name] = region;
    this.ask(`region:${name}`);
  }

  activate(name) {
    if (this.active === name) return;
    this.active = name;
    this.panels?.showActive();
  }

  setWindow(low, high) {
    const [from, to] = this.reach, width = Math.min(high - low, to - from), start = Math.min(Math.max(low, from), to - width);
    this.window = [start, start + width];
    this.fit = null;
    if (this.mode === "all") this.setMode("window");
    this.ask("window");
  }

  setMode(mode) {
    this.mode = mode;
    if (mode === "line" && !this.sideWindows) this.placeSides();
    this.panels.showMode();
    this.ask("images");
  }

  choose(cube) {
    this.cube = cube;
    this.panels.showLook();
    this.ask("sky");
  }

  // Changes are gathered and done once for each picture of the screen.
  ask(what) {
    if (!this.dirty.size) requestAnimationFrame(() => this.update());
    this.dirty.add(what);
  }

  update() {
    const dirty = this.dirty, all = dirty.has("all");
    this.dirty = new Set();
    const changed = ["main", "second", "ring"].filter(name => dirty.has(`region:${name}`));
    for (const name of new Set(changed.includes("ring") ? ["ring", "main", ...changed] : changed)) this.measure(name);
    let sky = all || dirty.has("sky");
    if (all || dirty.has("window") || dirty.has("images")) {
      const holder = this.mode !== "all" && this.windowCube();
      if (holder && holder !== this.cube && dirty.has("window")) this.choose(holder);
      for (const cube of this.cubes) {
        const [a, b] = planesIn(cube, ...this.window);
        if (all || dirty.has("images") || b > a || cube.inWindow) this.makeImage(cube);
      }
      sky = true;
    }
    if (sky) this.sky.redraw();
    else if (changed.length) this.sky.drawRegions();
    if (all || changed.length || dirty.has("curve") || dirty.has("lines")) this.view.draw();
    else this.view.mark();
    this.panels.follow(changed.length > 0);
    if (changed.length) this.updates++;
  }

  table(kind) { return tableOf(this, kind); }
  picture(view) { return pictureOf(view); }
  png(picture) { return pngOf(picture); }
  regionText(name = "main") { return this.regions[name] && regionText(this.regions[name], this.frame); }
}
