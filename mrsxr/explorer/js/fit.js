// One or two Gaussians on a straight continuum by Levenberg-Marquardt, as lines.fit_line: means over voxels, by erf.
export const KM_S = 299792.458;
const TO_DENSITY = 2.99792458e-12;  // W m-2 um-1 of 1 Jy at 1 um

function erf(x) {  // of Numerical Recipes, good to 1.2e-7
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const p = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277];
  let sum = 0;
  for (let k = 9; k >= 0; k--) sum = sum * t + p[k];
  const tail = t * Math.exp(-x * x + sum);
  return x >= 0 ? 1 - tail : tail - 1;
}

// Value and derivatives (flux, velocity, width) of a Gaussian of flux 1, mean over [lo, hi].
function profile(lo, hi, mu0, v, w) {
  const mu = mu0 * (1 + v / KM_S), s = mu0 * w / KM_S, a = (lo - mu) / s, b = (hi - mu) / s, d = hi - lo;
  const pa = Math.exp(-a * a / 2) / Math.sqrt(2 * Math.PI), pb = Math.exp(-b * b / 2) / Math.sqrt(2 * Math.PI);
  return [0.5 * (erf(b / Math.SQRT2) - erf(a / Math.SQRT2)) / d, (pa - pb) / s / d * mu0 / KM_S, (a * pa - b * pb) / w / d];
}

export function solve(matrix, right) {  // Gauss-Jordan; returns [solution, inverse]
  const n = right.length, m = matrix.map((row, i) => [...row, ...row.map((_, j) => +(i === j)), right[i]]);
  for (let i = 0; i < n; i++) {
    let best = i;
    for (let r = i + 1; r < n; r++) if (Math.abs(m[r][i]) > Math.abs(m[best][i])) best = r;
    [m[i], m[best]] = [m[best], m[i]];
    if (!(Math.abs(m[i][i]) > 0)) return null;
    const pivot = m[i][i];
    m[i] = m[i].map(value => value / pivot);
    for (let r = 0; r < n; r++) {
      if (r === i) continue;
      const by = m[r][i];
      for (let c = 0; c <= 2 * n; c++) m[r][c] -= by * m[i][c];
    }
  }
  return [m.map(row => row[2 * n]), m.map(row => row.slice(n, 2 * n))];
}

function evaluate(data, p, wanted) {
  const n = p.length, normal = Array.from({length: n}, () => new Float64Array(n)), right = new Float64Array(n);
  let chi2 = 0;
  const row = new Float64Array(n);
  for (let k = 0; k < data.y.length; k++) {
    row[0] = data.shape[k];
    row[1] = data.shape[k] * data.t[k];
    let model = p[0] * row[0] + p[1] * row[1];
    for (let c = 2; c < n; c += 3) {
      const [value, by_v, by_w] = profile(data.lo[k], data.hi[k], data.mu0, p[c + 1], p[c + 2]);
      row[c] = value;
      row[c + 1] = p[c] * by_v;
      row[c + 2] = p[c] * by_w;
      model += p[c] * row[c];
    }
    const off = (data.y[k] - model) / data.e[k];
    chi2 += off * off;
    if (!wanted) continue;
    for (let i = 0; i < n; i++) {
      right[i] += row[i] / data.e[k] * off;
      for (let j = 0; j <= i; j++) normal[i][j] += row[i] * row[j] / data.e[k] ** 2;
    }
  }
  for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) normal[i][j] = normal[j][i];
  return {chi2, normal, right};
}

// Limits of a parameter: two components are both in emission, one may be negative so that faint lines are not biased.
function limitsOfParameter(i, size, data) {
  if (i < 2) return [-Infinity, Infinity];
  if (i % 3 === 2) return [size > 5 ? 0 : -Infinity, Infinity];
  return i % 3 === 0 ? [-data.reach, data.reach] : [data.narrow, data.wide];
}

function residuals(data, p) {
  return data.y.map((y, k) => {
    let model = data.shape[k] * (p[0] + p[1] * data.t[k]);
    for (let c = 2; c < p.length; c += 3) model += p[c] * profile(data.lo[k], data.hi[k], data.mu0, p[c + 1], p[c + 2])[0];
    return (y - model) / data.e[k];
  });
}

function bounded(p, data) {
  return p.map((value, i) => { const [low, high] = limitsOfParameter(i, p.length, data); return Math.min(Math.max(value, low), high); });
}

// Parameters that are free: not at a limit that the fit presses against.
function freeOf(p, right, data) {
  return p.map((_, i) => i).filter(i => {
    const [low, high] = limitsOfParameter(i, p.length, data);
    return !(p[i] <= low && right[i] < 0 || p[i] >= high && right[i] > 0);
  });
}

function descend(data, start) {
  let p = bounded(start, data), damping = 1e-3, here = evaluate(data, p, true);
  for (let round = 0; round < 300; round++) {
    const free = freeOf(p, here.right, data), damped = free.map(i => free.map(j => here.normal[i][j] * (i === j ? 1 + damping : 1) || (i === j ? 1e-30 : 0)));
    const step = solve(damped, free.map(i => here.right[i]));
    if (!step) break;
    const moved = [...p];
    free.forEach((i, k) => { moved[i] += step[0][k]; });
    const next = bounded(moved, data), there = evaluate(data, next, true);
    if (there.chi2 <= here.chi2) {
      const done = here.chi2 - there.chi2 < 1e-9 * here.chi2;
      [p, here, damping] = [next, there, Math.max(damping / 10, 1e-12)];
      if (done) break;
    } else if ((damping *= 10) > 1e12) break;
  }
  return {p, ...here};
}

// By what the variance of means of the residuals exceeds that of independent ones.
function lengthOf(rest) {
  const square = rest.reduce((sum, value) => sum + value * value, 0);
  let length = 1;
  for (let lag = 1; lag <= 4; lag++) {
    let total = 0;
    for (let k = 0; k + lag < rest.length; k++) total += rest[k] * rest[k + lag];
    if (!(total > 2 / Math.sqrt(rest.length) * square)) break;
    length += 2 * total / square;
  }
  return length;
}

function prepare(spectrum, line) {
  const use = [], {mu0, window} = line;
  for (let k = 0; k < spectrum.wave.length; k++) {
    if (Math.abs(spectrum.wave[k] / mu0 - 1) * KM_S <= window && Number.isFinite(spectrum.flux[k])) use.push(k);
  }
  const pick = f => use.map(f), half = mu0 * window / KM_S, density = k => TO_DENSITY / spectrum.wave[k] ** 2;
  const known = use.filter(k => spectrum.error[k] > 0).map(k => spectrum.error[k]).sort((a, b) => a - b);
  const usual = known.length ? known[known.length >> 1] : Math.max(...use.map(k => Math.abs(spectrum.flux[k]))) || 1;
  const y = pick(k => spectrum.flux[k] * density(k)), unit = Math.max(...y.map(Math.abs)) || 1;
  return {
    mu0, y: y.map(value => value / unit), e: pick(k => (spectrum.error[k] > 0 ? spectrum.error[k] : usual) * density(k) / unit),
    lo: pick(k => spectrum.lo[k]), hi: pick(k => spectrum.hi[k]), t: pick(k => (spectrum.wave[k] - mu0) / half),
    shape: pick(k => (mu0 / spectrum.wave[k]) ** 2), wave: pick(k => spectrum.wave[k]), scale: unit,
    reach: Math.min(1000, 0.8 * window), narrow: 0.7 * line.instrument,
    wide: Math.min(1000, 2 * window / 3 / 2.3548),
  };
}

// The best place of one more component beside others, which keep their velocities and widths.
function bestStart(data, line, width, others = []) {
  const linear = [0, 1, ...others.map((_, k) => 2 + 3 * k), 2 + 3 * others.length];
  let best = null;
  for (let v = -data.reach; v <= data.reach; v += Math.max(line.instrument / 2, 20)) {
    const p = [0, 0, ...others.flatMap(([ov, ow]) => [0, ov, ow]), 0, v, width], found = evaluate(data, p, true);
    const part = solve(linear.map(i => linear.map(j => found.normal[i][j])), linear.map(i => found.right[i]));
    if (!part || part[0].at(-1) < 0 && best) continue;
    linear.forEach((i, k) => { p[i] = part[0][k]; });
    const {chi2} = evaluate(data, p, false);
    if (!best || chi2 < best.chi2) best = {p, chi2};
  }
  return best && best.p;
}

// Fit a line {mu0 [um], instrument [km/s], window [km/s]} of a spectrum; length: by what errors of means grow.
export function fitLine(spectrum, line, components = 1, length = 1) {
  const data = prepare(spectrum, line), n = data.y.length;
  if (n < 5 + 3 * components) return {problem: `the window holds ${n} samples with data, too few for a fit`};
  const best = starts => starts.filter(Boolean).map(start => descend(data, start)).reduce((a, b) => (b.chi2 < a.chi2 ? b : a));
  const widths = [1.3, 2.5, 5].map(by => by * line.instrument), starts = widths.map(width => bestStart(data, line, width));
  if (!starts.some(Boolean)) return {problem: "no start was found for the fit"};
  let found = best(starts);
  if (components === 2) {
    const [c0, c1, f, v, w] = found.p;
    const tries = [[v - w, 0.7 * w, v + w, 0.7 * w], [v, 0.6 * w, v, 2 * w], [v - w / 2, 0.6 * w, v + w, 1.5 * w],
      [v + w / 2, 0.6 * w, v - w, 1.5 * w]].map(([v1, w1, v2, w2]) => [c0, c1, f / 2, v1, w1, f / 2, v2, w2]);
    found = best([...tries, ...widths.map(width => bestStart(data, line, width, [[v, w]]))]);
  }
  const free = freeOf(found.p, found.right, data).filter(i => { const [low, high] = limitsOfParameter(i, found.p.length, data); return found.p[i] > low && found.p[i] < high; });
  const inverse = solve(free.map(i => free.map(j => found.normal[i][j])), free.map(i => found.right[i]));
  const noise = Math.sqrt(found.chi2 / (n - found.p.length) * Math.max(length, lengthOf(residuals(data, found.p))));
  const covariance = (i, j) => (inverse && free.includes(i) && free.includes(j) ? inverse[1][free.indexOf(i)][free.indexOf(j)] : 0);
  const error = i => (covariance(i, i) > 0 ? Math.sqrt(covariance(i, i)) * noise : NaN);
  const parts = [];
  for (let c = 2; c < found.p.length; c += 3) {
    const width = found.p[c + 2], square = width ** 2 - line.instrument ** 2, sigma = Math.sqrt(Math.max(square, 0));
    const end = Math.sqrt(2 * Math.max(width, line.instrument) * error(c + 2) + error(c + 2) ** 2);
    parts.push({
      flux: found.p[c] * data.scale, flux_err: error(c) * data.scale, velocity: found.p[c + 1], velocity_err: error(c + 1),
      width, width_err: error(c + 2), dispersion: sigma, dispersion_err: Math.min(end, width * error(c + 2) / (sigma || 1e-9)),
    });
  }
  parts.sort((a, b) => Math.abs(b.flux) - Math.abs(a.flux));
  const flux = parts.reduce((sum, part) => sum + part.flux, 0);
  let variance = 0;
  for (let a = 2; a < found.p.length; a += 3) for (let b = 2; b < found.p.length; b += 3) variance += covariance(a, b);
  const back = k => data.scale * data.wave[k] ** 2 / TO_DENSITY;
  const model = residuals(data, found.p).map((rest, k) => back(k) * (data.y[k] - rest * data.e[k]));
  return {flux, flux_err: Math.sqrt(variance) * noise * data.scale, parts, wave: data.wave, model,
    chi2: found.chi2, dof: n - found.p.length};
}
