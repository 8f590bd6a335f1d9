// The cubes of the page: from letters and deflate to typed arrays (pack.py packs them).
export const NO_ERROR = 254, NO_DATA = 255;

const FIRST = 0xA0, LETTERS = 46341;  // two letters from here on hold 31 bits
const GAP = 4;  // planes as far apart as this many others have none between them
const FORGETS = 0.5;  // as in pack.py

export function bytesOf(text, size) {
  const out = new Uint8Array(size);
  let i = 0, held = 0, bits = 0;
  const put = (value, more) => {
    held = held << more | value;
    for (bits += more; bits >= 8 && i < size; bits -= 8) out[i++] = held >> bits - 8;
    held &= (1 << bits) - 1;
  };
  for (let k = 0; i < size; k += 2) {
    const value = (text.charCodeAt(k) - FIRST) * LETTERS + text.charCodeAt(k + 1) - FIRST;
    put(value >>> 15, 16);
    put(value & 0x7fff, 15);
  }
  return out;
}

export async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export function wavelengths(facts) {
  if (Array.isArray(facts.wave)) return Float64Array.from(facts.wave);
  return Float64Array.from({length: facts.planes}, (_, k) => facts.wave.start + k * facts.wave.step);
}

// Edges of the planes, which neighbours share but across a gap, and the stretches [first, last) between gaps.
export function edges(wave) {
  const n = wave.length, lo = new Float64Array(n), hi = new Float64Array(n), starts = [0];
  const step = k => k > 0 && k < n ? wave[k] - wave[k - 1] : Infinity;
  for (let k = 0; k < n; k++) {
    const left = step(k), right = step(k + 1), least = Math.min(left, right);
    lo[k] = wave[k] - (left > GAP * least ? least : left) / 2;
    hi[k] = wave[k] + (right > GAP * least ? least : right) / 2;
    if (k && left > GAP * Math.min(step(k - 1), right)) starts.push(k);
  }
  return {lo, hi, stretches: starts.map((first, i) => [first, starts[i + 1] ?? n])};
}

// flux and code lie spaxel by spaxel, each with all its planes; place: number of a spaxel -> where it starts, or -1.
export function unpack(facts, raw) {
  const {nx, ny, planes, quantum} = facts, table = Float64Array.from(facts.table);
  const place = new Int32Array(nx * ny).fill(-1);
  let spaxels = 0;
  for (let i = 0; i < nx * ny; i++) if (raw[i]) place[i] = planes * spaxels++;
  const size = spaxels * planes, part = number => raw.subarray(nx * ny + number * size, nx * ny + (number + 1) * size);
  const code = part(0).slice(), bytes = [part(1), part(2), part(3), part(4)];
  const flux = new Float32Array(size), quanta = table.map(value => value * quantum);
  for (let i = 0, s = 0; s < spaxels; s++) {
    let expected = 0;
    for (let k = 0; k < planes; k++, i++) {
      if (code[i] === NO_DATA) { flux[i] = NaN; continue; }
      const folded = ((bytes[0][i] | bytes[1][i] << 8 | bytes[2][i] << 16 | bytes[3][i] << 24) >>> 0);
      const less = folded % 2 ? -(folded + 1) / 2 : folded / 2, q = quanta[code[i]];
      const value = (Math.floor(expected / q + 0.5) + less) * q;
      flux[i] = value;
      expected += FORGETS * (value - expected);
    }
  }
  const variance = table.map(value => value * value);
  const wave = wavelengths(facts);
  return {...facts, ...edges(wave), wave, place, flux, code, variance, spaxels};
}

export async function readCube(facts, text) {
  return unpack(facts, await inflate(bytesOf(text, facts.bytes)));
}
