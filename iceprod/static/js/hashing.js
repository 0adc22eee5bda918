/**
 * A worker that reads a file in parts and tells the digests of each part and of all up to there.
 *
 * It remembers the last few places: a part that has to be sent again is no reason to read all
 * before it once more.
 * @module hashing
 */

import { Sha256 } from "./sha256.js";

const PIECE = 4 * 1024 * 1024;
const KEPT = 4;

/** @type {Map<number, Sha256>} */
let known = new Map([[0, new Sha256()]]);

/** @param {Uint8Array} digest @returns {string} */
const base64 = (digest) => btoa(String.fromCharCode(...digest));

/**
 * Read on from the last known place that is not behind `end`.
 * @param {File} file
 * @param {number} end
 * @param {(read: number) => void} tell
 */
async function readUpTo(file, end, tell) {
  let at = Math.max(0, ...[...known.keys()].filter((place) => place <= end));
  const whole = (known.get(at) ?? new Sha256()).copy();
  while (at < end) {
    const next = Math.min(end, at + PIECE);
    whole.update(new Uint8Array(await file.slice(at, next).arrayBuffer()));
    at = next;
    tell(at);
  }
  return whole;
}

/** @param {Uint8Array} bytes @returns {Promise<Uint8Array>} */
async function digestOf(bytes) {
  if (!crypto.subtle) return new Sha256().update(bytes).digest();
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

/** @param {{file: File, from: number, to: number}} wanted */
async function answer({ file, from, to }) {
  const before = await readUpTo(file, from, (read) => self.postMessage({ from, to, read }));
  const bytes = new Uint8Array(await file.slice(from, to).arrayBuffer());
  if (bytes.length !== to - from) throw new Error("it became shorter");
  const whole = before.copy().update(bytes);
  known = new Map([...[...known].slice(-KEPT), [from, before], [to, whole]]);
  self.postMessage({ from, to, part: base64(await digestOf(bytes)), whole: base64(whole.digest()) });
}

let turn = Promise.resolve();
self.addEventListener("message", ({ data }) => {
  const { from, to } = data;
  turn = turn.then(() => answer(data)).catch((error) => self.postMessage({ from, to, error: String(error) }));
});
