// The controls, what is told in words and numbers, the code of what is on the screen, and what is saved.
import {saveSpectrum, savePicture, saveText} from "./save.js";
import {codeOf} from "./code.js";
import {KM_S} from "./fit.js";
import {KINDS, areaOf, makeRegion, middleOf} from "./region.js";
import {decText, raText, toSky} from "./sky.js";

export const at = id => document.getElementById(id);
const number = (value, digits = 4) => Number.isFinite(value) ? Number(value.toPrecision(digits)).toString() : "–";
const withError = (value, error, digits = 1) => Number.isFinite(error) ? `${value.toFixed(digits)} ± ${error.toFixed(digits)}` : `${value.toFixed(digits)}`;

function power(value, error) {
  const exponent = Math.floor(Math.log10(Math.abs(value) || 1)), unit = 10 ** exponent;
  const digits = String(exponent).replace("-", "⁻").replace(/\d/g, d => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]);
  return `(${(value / unit).toFixed(3)} ± ${(error / unit).toFixed(3)}) × 10${digits}`;
}

export class Panels {
  constructor(app) {
    this.app = app;
  }

  say(text) { at("told").textContent = text; }

  fill() {
    const {app} = this;
    at("work").classList.add("there");
    for (const line of app.facts.lines) at("line").append(new Option(line.label, line.label));
    this.choice("tool", [...KINDS, "pan", ...(app.facts.exposures.length ? ["pixels"] : [])], app.tool, tool => this.take(tool));
    this.choice("active", ["main", "second", "ring"], app.active, name => this.pick(name));
    this.choice("mode", ["all", "window", "line"], app.mode, mode => app.setMode(mode));
    this.choice("pull", ["window", "pan"], app.pull, pull => app.pull = pull);
    this.select("stretch", value => this.look({stretch: value}));
    this.select("map", value => this.look({map: value}));
    this.select("cut", value => this.look({cut: Number(value), low: null, high: null}));
    for (const name of ["low", "high"]) at(name).addEventListener("change", event => this.look({[name]: event.target.value === "" ? null : Number(event.target.value)}));
    this.select("unit", value => { app.unit = value; this.label(); });
    this.select("compare", value => { app.compare = value; this.label(); });
    this.select("components", value => { app.components = Number(value); });
    at("lines").addEventListener("change", event => { app.showLines = event.target.checked; app.ask("lines"); });
    for (const id of ["z", "zslide"]) at(id).addEventListener("input", event => this.redshift(Number(event.target.value), id));
    at("line").addEventListener("change", event => this.toLine(event.target.value));
    for (const [k, id] of ["from", "to"].entries()) at(id).addEventListener("change", () => this.typed(k));
    at("fit").addEventListener("click", () => app.fitNow());
    at("mapline").addEventListener("click", () => app.mapNow());
    at("mapline").hidden = !app.facts.served;
    at("whole").addEventListener("click", () => { app.view.whole(); app.sky.whole(); });
    at("remove").addEventListener("click", () => app.active !== "main" && app.setRegion(null));
    at("csv").addEventListener("click", () => saveSpectrum(app, "csv"));
    at("ecsv").addEventListener("click", () => saveSpectrum(app, "ecsv"));
    at("png").addEventListener("click", () => savePicture(app, "png"));
    at("svg").addEventListener("click", () => savePicture(app, "svg"));
    at("ds9").addEventListener("click", () => saveText("region.reg", this.regions()));
    at("copy").addEventListener("click", () => navigator.clipboard?.writeText(at("code").textContent));
    at("z").value = at("zslide").value = app.z;
    document.addEventListener("keydown", event => { if (event.key === "Enter" && app.tool === "polygon") app.sky.close(); });
    this.showLook();
  }

  choice(name, values, now, use) {
    for (const value of values) {
      const input = at(`${name}-${value}`);
      input.checked = value === now;
      input.addEventListener("change", () => use(value));
    }
  }

  select(id, use) { at(id).addEventListener("change", event => use(event.target.value)); }

  label() {
    const {app} = this, ratio = app.compare === "ratio" && app.regions.second;
    app.view.figure.yLabel = ratio ? "ratio of the regions" : app.unit === "Jy" ? "flux density [Jy]" : "mean in the region [MJy/sr]";
    app.view.figure.drawAxes();
    app.ask("curve");
  }

  pick(name) {
    const {app} = this;
    app.active = name;
    if (!app.regions[name]) {
      const {a, b, points} = app.regions.main, size = points ? Math.sqrt(areaOf(app.regions.main) / Math.PI) : Math.max(a, b), [u, v] = middleOf(app.regions.main);
      if (name === "ring") app.setRegion({kind: "annulus", u, v, a: 2 * size, b: 2 * size, inner: 1.4 * size, angle: 0});
      else app.setRegion(makeRegion("circle", u + 2.2 * size, v, size));
    }
  }

  take(tool) {
    this.app.tool = tool;
    at("sky").classList.toggle("picking", tool === "pixels");  // regions let the pointer through
    if (tool === "pixels") this.app.detector.behind.start();
  }

  showActive() { at(`active-${this.app.active}`).checked = true; }
  showMode() { at(`mode-${this.app.mode}`).checked = true; }

  look(change) {
    const {app} = this;
    for (const cube of at("every").checked ? app.cubes : [app.cube]) {
      Object.assign(cube.look, change);
      app.colour(cube);
    }
    this.showLook();
    app.ask("sky");
  }

  showLook() {
    const {look, limits} = this.app.cube;
    for (const name of ["stretch", "map", "cut"]) at(name).value = look[name];
    at("low").value = look.low ?? "";
    at("high").value = look.high ?? "";
    at("low").placeholder = number(limits[0]);
    at("high").placeholder = number(limits[1]);
  }

  redshift(z, from) {
    if (!Number.isFinite(z) || z <= -1) return;
    this.app.z = z;
    for (const id of ["z", "zslide"]) if (id !== from) at(id).value = z;
    this.app.fit = null;
    this.app.ask("lines");
  }

  toLine(label) {
    const {app} = this, line = app.facts.lines.find(one => one.label === label);
    if (!line) return;
    const mu0 = line.wave * (1 + app.z), [low, high] = app.reach;
    if (mu0 < low || mu0 > high) return this.say(`${label} lies at ${mu0.toFixed(3)} µm, outside these bands.`);
    this.say("");
    const half = mu0 * Math.max(2.5 * app.instrument(mu0), 300) / KM_S;
    app.setWindow(mu0 - half, mu0 + half);
    app.placeSides();
    app.view.zoom(mu0, mu0 * 2800 / KM_S);
  }

  typed(k) {
    const next = [...this.app.window];
    next[k] = Number(at(["from", "to"][k]).value);
    if (next.every(Number.isFinite)) this.app.setWindow(Math.min(...next), Math.max(...next));
  }

  regions() {
    return ["main", "second", "ring"].map(name => this.app.regionText(name)).filter(Boolean).join("\n") + "\n";
  }

  // After each change: what the region and the window are; slow parts once the hand rests.
  follow() {
    const {app} = this, region = app.regions.main, [u, v] = middleOf(region), [ra, dec] = toSky(app.frame, u, v);
    const shown = app.cube.fixed ? app.windowCube() ?? app.cubes[0] : app.cube, weights = shown.raw?.main?.weights;
    at("told-region").textContent = `${region.kind} at ${raText(ra)} ${decText(dec)}, ${areaOf(region).toFixed(3)} arcsec², `
      + `${weights ? weights.weight.reduce((a, b) => a + b, 0).toFixed(2) : 0} spaxels in ${shown.name}${this.lack(shown)}`;
    const holder = app.windowCube();
    at("told-image").textContent = app.cube.fixed ? `${app.cube.name} [${app.cube.unit}]` : app.mode === "all" || !app.cube.inWindow ? `${app.cube.name}: mean of all planes [MJy/sr]`
      : `${app.cube.name}: mean of ${app.window.map(w => w.toFixed(4)).join(" to ")} µm${app.mode === "line" ? ", continuum subtracted" : ""} [MJy/sr]`;
    if (!app.cube.image.some(Number.isFinite)) at("told-image").textContent += ": there are no data";
    const line = app.line();
    at("told-window").textContent = holder ? `${holder.name}, ${line.label || "no line of the list"}` : "between the bands";
    for (const [k, id] of ["from", "to"].entries()) if (document.activeElement !== at(id)) at(id).value = app.window[k].toFixed(4);
    clearTimeout(this.later);
    this.later = setTimeout(() => this.rest(), 120);
  }

  lack(cube) {  // what the region misses; beyond half of it a sample is a gap
    const {app} = this, seen = app.spectra.filter(({main}) => main.flux.some(Number.isFinite)), lost = cube.raw?.main?.lost;
    if (!seen.length) return app.cubes.every(one => one.raw && "main" in one.raw) ? ": no spectrum, as more than half of it has no data" : "";
    const most = lost ? lost.reduce((a, b) => Math.max(a, b), 0) : 0;
    return most > 0.01 ? `, up to ${Math.round(100 * most)} % of it without data` : "";
  }

  rest() {
    at("code").textContent = codeOf(this.app);
    at("regions").textContent = this.regions();
    if (!this.app.fit) at("fitted").replaceChildren();
    this.showLook();
  }

  showFit() {
    const {fit} = this.app, body = at("fitted");
    body.replaceChildren();
    const row = cells => {
      const tr = document.createElement("tr");
      for (const [k, text] of cells.entries()) {
        const cell = document.createElement(k ? "td" : "th");
        cell.textContent = text;
        if (cells.length === 1) cell.colSpan = 4;
        tr.append(cell);
      }
      body.append(tr);
    };
    if (fit.problem) return row([fit.problem]);
    row(["", "flux [W m⁻²]", "velocity [km/s]", "dispersion [km/s]"]);
    for (const [k, part] of fit.parts.entries()) {
      row([fit.parts.length > 1 ? `component ${k + 1}` : fit.line.label || `${fit.line.mu0.toFixed(4)} µm`, power(part.flux, part.flux_err),
        withError(part.velocity, part.velocity_err), withError(part.dispersion, part.dispersion_err)]);
    }
    if (fit.parts.length > 1) row(["sum", power(fit.flux, fit.flux_err), "", ""]);
    row([`χ² ${number(fit.chi2)} of ${fit.dof} degrees of freedom; velocities against z = ${number(this.app.z, 6)}`]);
    this.rest();
  }
}
