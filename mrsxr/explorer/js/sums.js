// Sums over the spaxels of a region, and over the planes of a window.
import {NO_DATA, NO_ERROR} from "./store.js";

const LOST = 0.5;  // part of a region without data from which a sample is NaN, as in extract_spectrum

function add(cube, sums, spaxel, w) {
  const start = cube.place[spaxel], {sum, square, seen, blind} = sums;
  if (start < 0) return;
  for (let k = 0, i = start; k < cube.planes; k++, i++) {
    const code = cube.code[i];
    if (code === NO_DATA) continue;
    sum[k] += w * cube.flux[i];
    seen[k] += w;
    if (code === NO_ERROR) blind[k] += w;
    else square[k] += w * cube.variance[code];
  }
}

// Sums over weighted spaxels. While a region is dragged most weights stay what they were: the change alone is added.
export function sumsOf(cube, weights, before) {
  const dense = new Float64Array(cube.nx * cube.ny);
  weights.index.forEach((spaxel, k) => { dense[spaxel] = weights.weight[k]; });
  let changed = 0;
  if (before) for (let s = 0; s < dense.length; s++) if (dense[s] !== before.dense[s]) changed++;
  const afresh = !before || changed >= weights.index.length || before.age > 100;
  const zero = () => new Float64Array(cube.planes);
  const sums = afresh ? {sum: zero(), square: zero(), seen: zero(), blind: zero(), age: 0} : {...before, age: before.age + 1};
  for (let s = 0; s < dense.length; s++) {
    const w = dense[s] - (afresh ? 0 : before.dense[s]);
    if (w) add(cube, sums, s, w);
  }
  return {...sums, dense};
}

// The spectrum of sums in Jy: flux, its error, the mean [MJy/sr], the part of the region without data.
export function spectrumOf(cube, sums, area) {
  const n = cube.planes, jy = 1e6 * cube.solid, flux = new Float64Array(n), error = new Float64Array(n);
  const mean = new Float64Array(n), lost = new Float64Array(n), seen = sums.seen.slice();
  for (let k = 0; k < n; k++) {
    if (seen[k] < 1e-9) seen[k] = 0;
    lost[k] = Math.max(1 - seen[k] / area, 0);
    const gone = seen[k] <= 0 || lost[k] > LOST;
    flux[k] = gone ? NaN : sums.sum[k] * jy;
    error[k] = gone || sums.blind[k] > 1e-9 ? NaN : Math.sqrt(Math.max(sums.square[k], 0)) * jy;
    mean[k] = gone ? NaN : sums.sum[k] / seen[k];
  }
  return {wave: cube.wave, flux, error, mean, lost, seen};
}

// A spectrum less the mean of another region, times the area that was seen.
export function lessBackground(cube, spectrum, ring) {
  const flux = new Float64Array(cube.planes), error = new Float64Array(cube.planes), jy = 1e6 * cube.solid;
  for (let k = 0; k < cube.planes; k++) {
    const share = spectrum.seen[k] / ring.seen[k];
    flux[k] = spectrum.flux[k] - ring.flux[k] * share;
    error[k] = Math.hypot(spectrum.error[k], ring.error[k] * share);
  }
  return {...spectrum, flux, error, mean: flux.map((value, k) => value / jy / spectrum.seen[k])};
}

export function planesIn(cube, low, high) {
  let first = 0, last = cube.planes;
  while (first < last && cube.wave[first] < low) first++;
  while (last > first && cube.wave[last - 1] > high) last--;
  return [first, last];
}

function meanOver(cube, start, [first, last]) {
  let sum = 0, n = 0;
  for (let i = start + first; i < start + last; i++) {
    if (cube.code[i] !== NO_DATA) { sum += cube.flux[i]; n++; }
  }
  return n * 2 >= last - first && n ? sum / n : NaN;
}

// Mean image [MJy/sr] over planes, less a straight line between side windows where these are given.
export function imageOf(cube, planes, sides = []) {
  const out = new Float32Array(cube.nx * cube.ny).fill(NaN), use = sides.filter(([a, b]) => b > a);
  const middle = ([a, b]) => 0.5 * (cube.wave[a] + cube.wave[b - 1]);
  for (let s = 0; s < out.length && planes[1] > planes[0]; s++) {
    const start = cube.place[s];
    if (start < 0) continue;
    let value = meanOver(cube, start, planes);
    if (use.length === 1) value -= meanOver(cube, start, use[0]);
    if (use.length === 2) {
      const levels = use.map(side => meanOver(cube, start, side)), [a, b] = use.map(middle);
      value -= levels[0] + (levels[1] - levels[0]) * (middle(planes) - a) / (b - a);
    }
    out[s] = value;
  }
  return out;
}
