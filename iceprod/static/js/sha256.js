/**
 * SHA-256 that grows with its input, which browsers' own does not (and over plain http they have none).
 * Source: FIPS 180-4, section 6.2.
 * @module sha256
 */

const BLOCK = 64;

/** @returns {number[]} the first 64 primes */
function primes() {
  const found = [];
  for (let n = 2; found.length < 64; n += 1) if (found.every((prime) => n % prime)) found.push(n);
  return found;
}

/** @param {number} root @returns {number} the first 32 bits behind its point */
const fraction = (root) => ((root % 1) * 2 ** 32) | 0;

const ROUNDS = Int32Array.from(primes(), (prime) => fraction(Math.cbrt(prime)));
const START = Int32Array.from(primes().slice(0, 8), (prime) => fraction(Math.sqrt(prime)));
const words = new Int32Array(64);

/** Take one block in. @param {Int32Array} state @param {Uint8Array} bytes @param {number} at */
function compress(state, bytes, at) {
  for (let n = 0; n < 16; n += 1, at += 4) {
    words[n] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
  }
  for (let n = 16; n < 64; n += 1) {
    const x = words[n - 15];
    const y = words[n - 2];
    const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
    const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
    words[n] = (words[n - 16] + s0 + words[n - 7] + s1) | 0;
  }
  // One by one: taking the array apart in one step is twice as slow in all.
  let a = state[0];
  let b = state[1];
  let c = state[2];
  let d = state[3];
  let e = state[4];
  let f = state[5];
  let g = state[6];
  let h = state[7];
  for (let n = 0; n < 64; n += 1) {
    const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
    const t1 = (h + s1 + ((e & f) ^ (~e & g)) + ROUNDS[n] + words[n]) | 0;
    const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g;
    g = f;
    f = e;
    e = (d + t1) | 0;
    d = c;
    c = b;
    b = a;
    a = (t1 + t2) | 0;
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
  state[5] += f;
  state[6] += g;
  state[7] += h;
}

/** A digest of all that it was given so far. */
export class Sha256 {
  #state = START.slice();
  #rest = new Uint8Array(BLOCK);
  #length = 0;

  /** @returns {Sha256} the same, which grows apart from now on */
  copy() {
    const made = new Sha256();
    made.#state = this.#state.slice();
    made.#rest = this.#rest.slice();
    made.#length = this.#length;
    return made;
  }

  /** @param {Uint8Array} bytes @returns {Sha256} this */
  update(bytes) {
    const held = this.#length % BLOCK;
    this.#length += bytes.length;
    let at = 0;
    if (held) {
      at = Math.min(BLOCK - held, bytes.length);
      this.#rest.set(bytes.subarray(0, at), held);
      if (held + at < BLOCK) return this;
      compress(this.#state, this.#rest, 0);
    }
    for (; at + BLOCK <= bytes.length; at += BLOCK) compress(this.#state, bytes, at);
    this.#rest.set(bytes.subarray(at));
    return this;
  }

  /** @returns {Uint8Array} of what was given so far; more may follow */
  digest() {
    const last = this.copy();
    const held = this.#length % BLOCK;
    const padding = new Uint8Array((held < 56 ? 56 : 120) - held + 8);
    padding[0] = 0x80;
    const view = new DataView(padding.buffer);
    view.setUint32(padding.length - 8, Math.floor(this.#length / 2 ** 29));
    view.setUint32(padding.length - 4, (this.#length << 3) >>> 0);
    last.update(padding);
    const found = new DataView(new ArrayBuffer(32));
    last.#state.forEach((word, n) => found.setInt32(4 * n, word));
    return new Uint8Array(found.buffer);
  }
}
