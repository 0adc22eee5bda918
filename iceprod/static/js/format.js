/**
 * Numbers as the server writes them.
 * @module format
 */

/**
 * @param {number} value a count
 * @returns {string} with thin spaces between thousands
 */
export function count(value) {
  return String(Math.trunc(value)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/**
 * @param {any} tree
 * @param {string} path like `kinds.0.share`
 * @returns {any} what is there, or undefined
 */
export function at(tree, path) {
  return path.split(".").reduce((part, key) => part?.[key], tree);
}

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/**
 * @param {number} bytes
 * @returns {string} in powers of ten, three digits
 */
export function size(bytes) {
  let unit = 0;
  let value = bytes;
  for (; value >= 999.5 && unit < UNITS.length - 1; unit += 1) value /= 1000;
  return `${Number(value.toPrecision(3))}\u202f${UNITS[unit]}`;
}

/**
 * @param {number} seconds
 * @returns {string} in its two largest units
 */
export function duration(seconds) {
  const rest = Math.max(1, Math.round(seconds));
  const [hours, minutes] = [Math.trunc(rest / 3600), Math.trunc((rest % 3600) / 60)];
  if (hours) return `${count(hours)}\u202fh ${minutes}\u202fmin`;
  return minutes ? `${minutes}\u202fmin ${rest % 60}\u202fs` : `${rest}\u202fs`;
}
