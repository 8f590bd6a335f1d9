// Sums over the spaxels of a region, and over the planes of a window.
import {NO_DATA} from "./store.js";

const LOST = 0.5;  // part of a region without data from which a sample is NaN, as in extract_spectrum

// Spectrum of weighted spaxels in Jy: flux, its error, the mean [MJy/sr], the part of the region without data.
export function spectrumOf(cube, weights) {
  const n = cube.planes, sum = new Float64Array(n), square = new Float64Array(n), seen = new Float64Array(n);
  for (let s = 0; s < weights.index.length; s++) {
    const start = cube.place[weights.index[s]], w = weights.weight[s];
    if (start < 0) continue;
    for (let k = 0, i = start; k < n; k++, i++) {
      if (cube.code[i] === NO_DATA) continue;
      sum[k] += w * cube.flux[i];
      square[k] += w * cube.variance[cube.code[i]];
      seen[k] += w;
    }
  }
  const flux = new Float64Array(n), error = new Float64Array(n), mean = new Float64Array(n), lost = new Float64Array(n);
  const jy = 1e6 * cube.solid;
  for (let k = 0; k < n; k++) {
    lost[k] = Math.max(1 - seen[k] / weights.area, 0);
    const gone = seen[k] <= 0 || lost[k] > LOST;
    flux[k] = gone ? NaN : sum[k] * jy;
    error[k] = gone ? NaN : Math.sqrt(square[k]) * jy;
    mean[k] = gone ? NaN : sum[k] / seen[k];
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
