// The explorer of a page that a running mrsxr serves: cubes stay there, which sums, fits and maps.
import {Explorer} from "./explorer.js";
import {rasterOf} from "./skyview.js";
import {edges, wavelengths} from "./store.js";
import {lessBackground, planesIn} from "./sums.js";

export async function post(what, question) {
  const answer = await fetch(what, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(question)});
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

const numbers = values => Float64Array.from(values, value => value ?? NaN);

// One question at a time; of those that come meanwhile the last of each kind.
class Asker {
  constructor() {
    Object.assign(this, {waiting: new Map(), busy: false});
  }

  put(key, ask) {
    this.waiting.delete(key);
    this.waiting.set(key, ask);
    if (!this.busy) this.work();
  }

  async work() {
    this.busy = true;
    while (this.waiting.size) {
      const [key, ask] = this.waiting.entries().next().value;
      this.waiting.delete(key);
      await ask();
    }
    this.busy = false;
  }
}

export class ServedExplorer extends Explorer {
  asker = new Asker();

  async read(facts) {
    const wave = wavelengths(facts), cube = {...facts, ...edges(wave), wave, place: new Int32Array(facts.nx * facts.ny).fill(-1)};
    if (!this.cubes.length) await this.fetchImage(cube, [0, cube.planes], []);
    else cube.image = new Float32Array(facts.nx * facts.ny).fill(NaN);
    return cube;
  }

  async fetchImage(cube, planes, sides) {
    cube.image = Float32Array.from((await post("image", {cube: cube.name, planes, sides})).values, value => value ?? NaN);
    cube.place = Int32Array.from(cube.image, value => value === value ? 0 : -1);
    if (cube.raster) cube.raster = rasterOf(cube, this.field);
  }

  guarded(key, ask) {
    this.asker.put(key, () => ask().catch(error => this.panels.say(error.message)));
  }

  makeImage(cube) {
    if (cube.fixed) return super.makeImage(cube);
    const [a, b] = planesIn(cube, ...this.window), here = this.mode !== "all" && b > a, planes = here ? [a, b] : [0, cube.planes];
    const sides = here ? this.sides.map(side => planesIn(cube, ...side)) : [];
    cube.inWindow = here;
    const key = JSON.stringify([planes, sides]);
    if (cube.shownKey === key) return this.colour(cube);
    cube.shownKey = key;
    this.colour(cube);
    this.guarded(`image ${cube.name}`, async () => {
      await this.fetchImage(cube, planes, sides);
      this.colour(cube);
      this.ask("sky");
    });
  }

  measureIn(cube, name) {
    const raw = cube.raw ??= {}, region = this.regionText(name);
    const put = found => {
      raw[name] = found;
      const less = key => raw[key] && raw.ring ? lessBackground(cube, raw[key], raw.ring) : raw[key];
      cube.spectrum = raw.main ? {main: less("main"), second: less("second")} : null;
    };
    if (!region) return put(null);
    this.guarded(`spectrum ${cube.name} ${name}`, async () => {
      const found = await post("spectrum", {cube: cube.name, region});
      const part = found && Object.fromEntries(["flux", "error", "mean", "seen"].map(key => [key, numbers(found[key])]));
      put(part && {...part, wave: cube.wave, weights: {weight: [Math.max(...part.seen)]}});
      this.ask("curve");
      this.panels.follow();
    });
  }

  async fitNow() {
    const cube = this.windowCube(), line = this.line(), [region, ring] = ["main", "ring"].map(name => this.regionText(name));
    const question = {cube: cube?.name, region, ring, line: line.label || line.wave, redshift: this.z, components: this.components};
    try {
      this.fit = {...await post("fit", question), line, cube};
    } catch (error) {
      this.fit = {problem: error.message};
    }
    this.ask("curve");
    this.panels.showFit();
  }

  async mapNow() {
    const cube = this.windowCube(), line = this.line();
    this.panels.say(`Fitting ${line.label || "the line"} in every spaxel …`);
    try {
      for (const map of await post("map", {cube: cube?.name, line: line.label || line.wave, redshift: this.z, components: this.components})) this.takeMap(map);
      this.choose(this.maps.at(-3));
      this.panels.say("");
    } catch (error) {
      this.panels.say(error.message);
    }
  }
}
