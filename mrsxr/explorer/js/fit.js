// One or two Gaussians on a straight continuum, step by step as lines.fit_line (lines/_fit_kernels.py, of one line):
// means over voxels by erf, fluxes and continuum solved linearly inside the descent, the same starts.
export const KM_S = 299792.458;
const TO_DENSITY = 2.99792458e-12;  // W m-2 um-1 of 1 Jy at 1 um
const CONTINUUM = 2, ROUNDS = 80, FIRST_ROUNDS = 6, TOLERANCE = 1e-7;
const REACH = 1000, NARROWEST = 0.7, WIDEST = 1000, LEAST_MARGIN = 500;

function erf(x) {  // of Numerical Recipes, good to 1.2e-7
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const p = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277];
  let sum = 0;
  for (let k = 9; k >= 0; k--) sum = sum * t + p[k];
  const tail = t * Math.exp(-x * x + sum);
  return x >= 0 ? 1 - tail : tail - 1;
}

const clip = (value, low, high) => Math.min(Math.max(value, low), high);

function cholesky(a, n) {  // in place, false where it is not positive
  for (let i = 0; i < n; i++) {
    const size = a[i][i];
    for (let j = 0; j <= i; j++) {
      let total = a[i][j];
      for (let k = 0; k < j; k++) total -= a[i][k] * a[j][k];
      if (i !== j) a[i][j] = total / a[j][j];
      else if (total > 1e-14 * size) a[i][i] = Math.sqrt(total);
      else return false;
    }
  }
  return true;
}

function substitute(a, n, v) {
  for (let i = 0; i < n; i++) { for (let k = 0; k < i; k++) v[i] -= a[i][k] * v[k]; v[i] /= a[i][i]; }
  for (let i = n - 1; i >= 0; i--) { for (let k = i + 1; k < n; k++) v[i] -= a[k][i] * v[k]; v[i] /= a[i][i]; }
}

function dot(a, b) {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i] * b[i];
  return total;
}

function gram(rows, n) {
  const out = Array.from({length: n}, () => new Float64Array(n));
  for (let a = 0; a < n; a++) for (let b = 0; b <= a; b++) out[a][b] = out[b][a] = dot(rows[a], rows[b]);
  return out;
}

function freeze(matrix, n, frozen) {
  for (let a = 0; a < n; a++) {
    if (!frozen[a]) continue;
    for (let b = 0; b < n; b++) matrix[a][b] = matrix[b][a] = 0;
    matrix[a][a] = 1;
  }
}

// A model of k components on data in errors {y, inv, lo, hi, continuum}; x: velocity and width [km/s] of each.
class Model {
  constructor(data, k) {
    const row = () => new Float64Array(data.y.length), most = Math.max(Math.min(WIDEST, 2 * data.window / 3 / Math.sqrt(8 * Math.log(2))), 2 * data.inst);
    Object.assign(this, {data, k, lin: CONTINUUM + k, all: CONTINUUM + 3 * k, positive: k > 1, rest: row(), coef: [], frozen: []});
    this.rows = [...data.continuum, ...Array.from({length: 3 * k}, row)];
    this.slopes = Array.from({length: 2 * k}, row);
    this.low = Array.from({length: 2 * k}, (_, q) => q % 2 ? NARROWEST * data.inst : -data.reach);
    this.high = Array.from({length: 2 * k}, (_, q) => q % 2 ? most : data.reach);
  }

  bounded(x) { return x.map((value, q) => clip(value, this.low[q], this.high[q])); }
  held(x) { return x.some((value, q) => value <= this.low[q] || value >= this.high[q]); }

  evaluate(x) {  // profiles and their derivatives
    const {lo, hi, inv, mu0} = this.data, scale = mu0 / KM_S;
    for (let c = 0; c < this.k; c++) {
      const mu = mu0 + x[2 * c] * scale, s = x[2 * c + 1] * scale, basis = this.rows[CONTINUUM + c], [byV, byW] = [this.slopes[2 * c], this.slopes[2 * c + 1]];
      for (let i = 0; i < lo.length; i++) {
        const a = (lo[i] - mu) / s, b = (hi[i] - mu) / s, f = inv[i] / (hi[i] - lo[i]);
        const pa = Math.exp(-0.5 * a * a) / Math.sqrt(2 * Math.PI), pb = Math.exp(-0.5 * b * b) / Math.sqrt(2 * Math.PI);
        basis[i] = 0.5 * (erf(b * Math.SQRT1_2) - erf(a * Math.SQRT1_2)) * f;
        byV[i] = -(pb - pa) * f / s * scale;
        byW[i] = -(b * pb - a * pa) * f / s * scale;
      }
    }
  }

  project() {  // continuum and fluxes; the most negative flux is held at 0 where none may be
    const {y} = this.data, {rows, lin, rest} = this, whole = gram(rows, lin);
    this.frozen = Array(this.all).fill(false);
    for (let round = 0; round <= this.k; round++) {
      const factor = whole.map(row => row.slice());
      for (let a = 0; a < lin; a++) this.frozen[a] ||= !(factor[a][a] > 0);
      this.coef = rows.slice(0, lin).map((row, a) => this.frozen[a] ? 0 : dot(row, y));
      freeze(factor, lin, this.frozen);
      if (!cholesky(factor, lin)) return Infinity;
      substitute(factor, lin, this.coef);
      const fluxes = this.coef.slice(CONTINUUM), worst = fluxes.indexOf(Math.min(...fluxes));
      if (!this.positive || fluxes[worst] >= 0) break;
      this.frozen[CONTINUUM + worst] = true;
    }
    for (let i = 0; i < y.length; i++) {
      rest[i] = y[i];
      for (let a = 0; a < lin; a++) rest[i] -= this.coef[a] * rows[a][i];
    }
    return dot(rest, rest);
  }

  at(x) { this.evaluate(x); return this.project(); }

  normal(x) {
    const {rows, lin, all, frozen} = this;
    this.slope = new Float64Array(all);
    for (let q = 0; q < x.length; q++) for (let i = 0, flux = this.coef[CONTINUUM + (q >> 1)]; i < this.rest.length; i++) rows[lin + q][i] = flux * this.slopes[q][i];
    this.matrix = gram(rows, all);
    for (let q = 0; q < x.length; q++) {
      const a = lin + q, slope = dot(rows[a], this.rest);
      frozen[a] = x[q] <= this.low[q] && slope < 0 || x[q] >= this.high[q] && slope > 0 || !(this.matrix[a][a] > 0);
      this.slope[a] = frozen[a] ? 0 : slope;
    }
  }

  propose(x, damping) {  // the damped step within the bounds, and the gain that is promised
    const {lin, all} = this, factor = this.matrix.map((row, a) => { const out = row.slice(); if (a >= lin) out[a] *= 1 + damping; return out; });
    freeze(factor, all, this.frozen);
    if (!cholesky(factor, all)) return null;
    const step = this.slope.slice();
    substitute(factor, all, step);
    const trial = this.bounded(x.map((value, q) => { const most = (q % 2 ? 0.5 : 2) * x[q - q % 2 + 1]; return value + clip(step[lin + q], -most, most); }));
    return {trial, gain: Math.max(trial.reduce((sum, value, q) => sum + (value - x[q]) * this.slope[lin + q], 0), 0)};
  }

  descend(start, rounds) {
    let x = this.bounded(start), chi2 = this.at(x), damping = 1e-3, converged = false, moved = true;
    const {y} = this.data, least = 1e-14 * chi2 + 1e-15 * dot(y, y), dof = Math.max(y.length - this.all, 1);
    for (let round = 0; round < rounds && moved && !converged; round++) {
      this.normal(x);
      moved = false;
      for (let n = 0; n < 12 && !moved && !converged; n++) {
        const found = this.propose(x, damping);
        if (!found) { damping = Math.max(10 * damping, 1e-3); continue; }
        const next = this.at(found.trial);
        converged = found.gain <= Math.max(TOLERANCE * chi2 / dof, least);
        if (next <= chi2) {
          damping = chi2 - next > 0.6 * found.gain ? Math.max(0.1 * damping, 1e-9) : clip(4 * damping, 0.1, 1e3);
          [moved, chi2, x] = [true, next, found.trial];
        } else if (!converged) damping = Math.max(8 * damping, 1e-4);
      }
    }
    return {x, chi2: moved ? chi2 : this.at(x), converged};
  }

  // Errors of continuum, then flux, velocity and width; what is held at a bound has none.
  covariance(x) {
    const {all, lin} = this;
    this.at(x);
    this.normal(x);
    const frozen = this.frozen.map((value, a) => a >= lin && (value || x[a - lin] <= this.low[a - lin] || x[a - lin] >= this.high[a - lin]));
    freeze(this.matrix, all, frozen);
    const by = this.matrix.map((row, a) => 1 / Math.sqrt(row[a])), factor = this.matrix.map((row, a) => row.map((value, b) => value * by[a] * by[b]));
    if (!cholesky(factor, all)) return null;
    return Array.from({length: all}, (_, b) => {
      const column = new Float64Array(all);
      column[b] = 1;
      substitute(factor, all, column);
      return column.map((value, a) => frozen[a] || frozen[b] ? 0 : value * by[a] * by[b]);
    });
  }
}

// The best place of a box of half width 1.2 w: the largest squared S/N; of several components of a positive one.
function peak(data, rest, w, bothSigns) {
  const n = Math.max(Math.ceil(data.reach / (0.5 * w)), 1), scale = data.mu0 / KM_S;
  let best = -Infinity, place = 0;
  for (let step = 0; step <= 2 * n; step++) {
    const v = data.reach * (step - n) / n, middle = data.mu0 + v * scale;
    let total = 0, weight = 0;
    for (let i = 0; i < rest.length; i++) {
      const from = 0.5 * (data.lo[i] + data.hi[i]) - middle;
      if (from > 1.2 * w * scale || from < -1.2 * w * scale) continue;
      total += rest[i] * data.inv[i];
      weight += data.inv[i] ** 2;
    }
    const score = weight > 0 ? total * (bothSigns ? total : Math.abs(total)) / weight : 0;
    if (score > best) [best, place] = [score, v];
  }
  return [place, best];
}

function fitOne(data, rest) {
  const model = new Model(data, 1), widths = [1.3 * data.inst, 3 * data.inst];
  const boxes = widths.map(w => [...peak(data, rest, w, false), w]).sort((a, b) => b[1] - a[1] || b[2] - a[2]);
  let best = null;
  for (const [v, , w] of boxes) {
    if (best?.converged && !model.held(best.x)) break;
    const found = model.descend([v, w], ROUNDS);
    if (!best || found.chi2 < best.chi2 || found.chi2 === best.chi2 && found.converged) best = found;
  }
  return {model, ...best};
}

function fitTwo(data, one) {  // from the fit of one component and what it leaves
  const model = new Model(data, 2), [v, w] = one.x;
  one.model.at(one.x);
  const starts = [1.3 * data.inst, 2 * w].map(wide => [v, w, peak(data, one.model.rest, wide, false)[0], wide]);
  for (const [by, wide] of [[0, 2.4], [-0.8, 1.8], [0.8, 1.8]]) starts.push([v, 0.8 * w, v + by * w, wide * w]);
  starts.push([v - 0.6 * w, 0.75 * w, v + 0.6 * w, 0.75 * w]);
  const short = starts.map(start => model.descend(start, FIRST_ROUNDS)), least = list => list.reduce((a, b) => (b.chi2 < a.chi2 ? b : a));
  let best = least(short);
  for (const from of [...short].sort((a, b) => a.chi2 - b.chi2).slice(0, 2)) {  // the best of them go on
    const found = model.descend(from.x, ROUNDS);
    if (found.chi2 < best.chi2 || found.chi2 === best.chi2 && found.converged) best = found;
  }
  return {model, ...best};
}

// By what the variance of means of the residuals exceeds that of independent ones.
function lengthOf(rest) {
  const square = dot(rest, rest);
  let length = 1;
  for (let lag = 1; lag <= 4; lag++) {
    let total = 0;
    for (let k = 0; k + lag < rest.length; k++) total += rest[k] * rest[k + lag];
    if (!(total > 2 / Math.sqrt(rest.length) * square)) break;
    length += 2 * total / square;
  }
  return length;
}

// Factors on errors of velocity and width, which follow from differences within the line, not from means.
function sharesOf(width, plane, alike, length) {
  let byV = 1, byW = 1;
  for (let lag = 1; lag < alike.length; lag++) {
    const square = (lag / Math.max(width / plane, 1e-3)) ** 2, own = 2 * alike[lag] * Math.exp(-0.25 * square);
    byV += own * (1 - square / 2);
    byW += own * (1 - square + square ** 2 / 12);
  }
  return [byV, byW].map(value => Math.sqrt(value / length));
}

function prepare(spectrum, line) {
  const {mu0, window} = line, half = mu0 * window / KM_S, density = k => TO_DENSITY / spectrum.wave[k] ** 2;
  const inside = Array.from(spectrum.wave.keys()).filter(k => Math.abs(spectrum.wave[k] - mu0) <= half);
  const use = inside.filter(k => Number.isFinite(spectrum.flux[k])), pick = f => Float64Array.from(use, f);
  const known = use.filter(k => spectrum.error[k] > 0).map(k => spectrum.error[k] * density(k)).sort((a, b) => a - b);
  const middle = known.length % 2 ? known[known.length >> 1] : 0.5 * (known[known.length / 2 - 1] + known[known.length / 2]);
  const usual = (known.length ? middle : use.reduce((sum, k) => sum + Math.abs(spectrum.flux[k] * density(k)), 0) / use.length) || 1;
  const errors = pick(k => (spectrum.error[k] > 0 ? spectrum.error[k] * density(k) : usual)), unit = errors.reduce((a, b) => a + b, 0) / errors.length;
  const inv = errors.map(value => unit / value), t = pick(k => (spectrum.wave[k] - mu0) / half), shape = pick(k => (mu0 / spectrum.wave[k]) ** 2);
  return {
    mu0, window, inst: line.instrument, reach: Math.min(REACH, 0.8 * window), inv, unit, y: pick(k => spectrum.flux[k] * density(k)).map((value, i) => value / errors[i]),
    lo: pick(k => spectrum.lo[k]), hi: pick(k => spectrum.hi[k]), wave: pick(k => spectrum.wave[k]),
    continuum: [inv.map((value, i) => value * shape[i]), inv.map((value, i) => value * shape[i] * t[i])],
    ends: inside.length ? [spectrum.lo[inside[0]], spectrum.hi[inside.at(-1)]] : [Infinity, -Infinity],
  };
}

function partOf(model, x, c, covariance, noise, shares, data) {
  const a = CONTINUUM + c, v = CONTINUUM + model.k + 2 * c, width = x[2 * c + 1], error = i => covariance?.[i][i] > 0 ? Math.sqrt(covariance[i][i]) * noise : NaN;
  const width_err = error(v + 1) * shares[1], sigma = Math.sqrt(Math.max(width ** 2 - data.inst ** 2, 0));
  const end = Math.sqrt(2 * Math.max(width, data.inst) * width_err + width_err ** 2), linear = width * width_err / sigma;
  return {flux: model.coef[a] * data.unit, flux_err: error(a) * data.unit, velocity: x[2 * c], velocity_err: error(v) * shares[0],
    width, width_err, dispersion: sigma, dispersion_err: linear < end ? linear : end};
}

// Fit a line {mu0 [um], instrument [km/s], window [km/s]} of a spectrum; alike: correlation of a sample's error with the next.
export function fitLine(spectrum, line, components = 1, alike = [1]) {
  const data = prepare(spectrum, line), n = data.y.length, margin = Math.max(LEAST_MARGIN, 4.71 * line.instrument) / KM_S * line.mu0;
  if (n < CONTINUUM + 3 * components + 3) return {problem: `the window holds ${n} samples with data, too few for a fit`};
  if (!(data.ends[0] + margin < line.mu0 && line.mu0 < data.ends[1] - margin)) return {problem: `the line is nearer than ${margin.toFixed(3)} µm to the end of the data`};
  const plain = new Model(data, 0);
  plain.project();
  const one = fitOne(data, plain.rest), found = components === 2 ? fitTwo(data, one) : one, {model, x} = found;
  const covariance = model.covariance(x), chi2 = dot(model.rest, model.rest), own = 2 * alike.reduce((a, b) => a + b, 0) - 1, seen = lengthOf(model.rest);
  const noise = Math.sqrt(chi2 / (n - model.all) * Math.max(own, seen)), steps = Array.from(data.hi, (value, i) => value - data.lo[i]).sort((a, b) => a - b);
  const plane = KM_S * steps[n >> 1] / line.mu0, parts = [];
  for (let c = 0; c < model.k; c++) parts.push(partOf(model, x, c, covariance, noise, seen <= own ? sharesOf(x[2 * c + 1], plane, alike, own) : [1, 1], data));
  parts.sort((a, b) => Math.abs(b.flux) - Math.abs(a.flux));
  let variance = 0;
  for (let a = CONTINUUM; a < model.lin; a++) for (let b = CONTINUUM; b < model.lin; b++) variance += covariance?.[a][b] ?? NaN;
  const curve = Array.from(data.y, (y, i) => (y - model.rest[i]) / data.inv[i] * data.unit * data.wave[i] ** 2 / TO_DENSITY);
  return {flux: parts.reduce((sum, part) => sum + part.flux, 0), flux_err: Math.sqrt(variance) * noise * data.unit, parts, wave: Array.from(data.wave),
    model: curve, chi2, dof: n - model.all};
}
