/**
 * The part of a page where files are picked or dropped, and seen on their way to the server.
 * @module pages/upload
 */

import { confirm } from "../dialog.js";
import { duration, size } from "../format.js";
import { refresh } from "../refresh.js";
import { RpcError, batch, call } from "../rpc.js";
import { Upload, readMetadata } from "../tus.js";

const AT_ONCE = 2;
const DRAW_MS = 200;
const MOST = 1000;

const section = /** @type {HTMLElement} */ (document.querySelector("[data-upload]"));
const list = section.querySelector("ul");
const announcer = section.querySelector("[data-announce]");
const folder = /** @type {HTMLInputElement} */ (section.querySelector("input[name=folder]"));
const picker = /** @type {HTMLInputElement} */ (section.querySelector("input[type=file]"));
const template = section.querySelector("template");
const base = section.dataset.upload;
const isFar = base.includes("://");

/** @type {Map<string, Row>} by where the file goes */
const rows = new Map();

/** @param {string} name @returns {string} where a file of that name goes; parts of an address are encoded */
function targetOf(name) {
  const names = [...folder.value.split("/").filter(Boolean), name];
  return base + (isFar ? names.map(encodeURIComponent) : names).join("/");
}

/** @param {string} target @returns {string} where a browser gets it */
const addressOf = (target) =>
  isFar ? `/proxy?url=${encodeURIComponent(target)}` : `/files/${target.split("/").map(encodeURIComponent).join("/")}`;

/** @param {string} target @returns {string} its name below the place of this page */
function nameOf(target) {
  const name = target.slice(base.length);
  return isFar ? name.split("/").map(decodeURIComponent).join("/") : name;
}

/** One file of the list: on its way, or begun some time and waiting to be picked again. */
class Row {
  /** @param {string} target */
  constructor(target) {
    const name = nameOf(target);
    this.target = target;
    this.name = name;
    /** @type {Upload | null} */
    this.upload = null;
    /** @type {{address: string, offset: number, length: number, modified: string} | null} */
    this.begun = null;
    this.drawnAt = 0;
    this.element = /** @type {HTMLElement} */ (template.content.firstElementChild.cloneNode(true));
    this.part("name").textContent = name;
    this.part("bar").setAttribute("aria-label", name);
    for (const verb of ["pause", "go", "drop"]) {
      const button = this.part(verb);
      button.append(Object.assign(document.createElement("span"), { className: "hidden", textContent: ` ${name}` }));
      button.addEventListener("click", () => this[verb]());
    }
    list.append(this.element);
  }

  /** @param {string} name @returns {any} */
  part(name) {
    return this.element.querySelector(`[data-part=${name}]`);
  }

  /** @param {File} file */
  take(file) {
    const isSame = this.begun && this.begun.length === file.size && this.begun.modified === String(file.lastModified);
    const address = isSame ? this.begun.address : "";
    this.upload = new Upload(file, this.target, { address, changed: () => this.changed() });
    this.upload.offset = this.upload.sent = isSame ? this.begun.offset : 0;
    this.begun = null;
    this.changed();
  }

  pause() {
    this.upload.pause();
    this.part("go").focus();
  }

  go() {
    this.upload.state = "waiting";
    this.changed();
    pump();
    this.part("pause").focus();
  }

  async drop() {
    const isOver = this.upload?.state === "done";
    if (!isOver && !(await confirm(`Give up the upload of ${this.name}?`))) return;
    rows.delete(this.target);
    this.element.remove();
    picker.focus();
    const upload = this.upload ?? new Upload(new File([], ""), this.target, { address: this.begun.address });
    if (!isOver) await upload.discard().catch(() => {}); // it expires by itself
    pump();
  }

  changed() {
    const { state } = this.upload ?? { state: "begun" };
    const isNews = state !== this.element.dataset.state;
    if (!isNews && performance.now() - this.drawnAt < DRAW_MS) return;
    this.drawnAt = performance.now();
    this.element.dataset.state = state;
    this.draw(state);
    if (isNews) this.news(state);
  }

  /** @param {string} state */
  draw(state) {
    const { sent, whole } = this.progress();
    const bar = this.part("bar");
    bar.max = whole || 1;
    bar.value = state === "done" ? bar.max : sent;
    this.part("size").textContent = state === "done" ? size(whole) : `${size(sent)} of ${size(whole)}`;
    this.part("text").textContent = this.text(state);
    this.part("pause").hidden = !["waiting", "checking", "sending", "stuck"].includes(state);
    this.part("go").hidden = !["paused", "failed"].includes(state);
    this.part("go").firstChild.data = state === "failed" ? "Try again" : "Go on";
    this.part("drop").hidden = state === "ending";
    this.part("drop").firstChild.data = state === "done" ? "Hide" : "Give up";
    if (state === "done") this.link();
  }

  /** @returns {{sent: number, whole: number}} in bytes */
  progress() {
    if (!this.upload) return { sent: this.begun.offset, whole: this.begun.length };
    const { state, sent, read, file } = this.upload;
    return { sent: state === "checking" ? read : sent, whole: file.size };
  }

  /** @param {string} state @returns {string} */
  text(state) {
    const { rate, sent, file, why, sha256 } = this.upload ?? {};
    switch (state) {
      case "begun":
        return "Not complete: pick the same file again, and it goes on here.";
      case "waiting":
        return "Waits for its turn";
      case "checking":
        return "Reading what is there already";
      case "sending":
        return rate ? `${size(rate)}/s, ${duration((file.size - sent) / rate)} left` : "Sending";
      case "stuck":
        return `${why} It is tried again.`;
      case "ending":
        return why ? `On its way to the origin, which is tried again: ${why}` : "Being checked and put in its place";
      case "paused":
        return "Paused";
      case "done":
        return `Complete. SHA-256 ${sha256.slice(0, 12)}…`;
      default:
        return why;
    }
  }

  link() {
    const link = Object.assign(document.createElement("a"), { href: addressOf(this.target), download: "", textContent: this.name });
    this.part("name").replaceChildren(link);
  }

  /** Tell screen readers what is another than before, and look for who is next. @param {string} state */
  news(state) {
    if (["done", "failed", "stuck"].includes(state)) announcer.textContent = `${this.name}: ${this.text(state)}`;
    if (state === "done") refresh().catch(() => {});
    queueMicrotask(pump);
  }
}

/** Begin as many as may be under way at a time. */
function pump() {
  const uploads = [...rows.values()].map((row) => row.upload).filter(Boolean);
  let free = AT_ONCE - uploads.filter((upload) => upload.isActive).length;
  for (const upload of uploads) {
    if (upload.state !== "waiting" || free <= 0) continue;
    free -= 1;
    upload.state = "sending";
    upload.run();
  }
}

/** Show what was begun by this person and is not complete. */
async function findBegun() {
  const { items } = await call("upload.list", { limit: MOST });
  for (const view of items) {
    const isOurs = view.stage === "open" && view.protocol === "tus" && view.part === "" && view.target.startsWith(base);
    if (!isOurs || view.length === null || rows.has(view.target)) continue;
    const told = readMetadata(view.metadata);
    const row = new Row(view.target);
    row.begun = { address: `/tus/${view.upload_id}`, offset: view.offset, length: view.length, modified: told.get("modified") ?? "" };
    rows.set(view.target, row);
    row.changed();
  }
}

/** @param {string} target @returns {[string, Record<string, string>]} the call that succeeds if something is there */
const question = (target) =>
  isFar
    ? ["origin.stat", { url: target }]
    : ["file.get", { dataset_id: section.dataset.dataset, name: section.dataset.name + nameOf(target) }];

/** @param {File[]} files @returns {Promise<boolean>} whether those that are there already may be replaced */
async function mayReplace(files) {
  const fresh = files.filter((file) => !rows.has(targetOf(file.name))); // of the others it was asked before
  const found = await batch(fresh.map((file) => question(targetOf(file.name))));
  const names = fresh.filter((_, n) => !(found[n] instanceof RpcError)).map((file) => file.name);
  if (names.length === 0) return true;
  if (names.length === 1) return confirm(`${names[0]} is there already. Replace it?`);
  return confirm(`${names.length} of these files are there already, ${names[0]} among them. Replace them?`);
}

/** @param {Iterable<File>} picked */
async function add(picked) {
  const files = [...picked];
  await findBegun().catch(() => {});
  if (!(await mayReplace(files))) return;
  for (const file of files) {
    const target = targetOf(file.name);
    const row = rows.get(target) ?? new Row(target);
    if (row.upload && !["done", "failed"].includes(row.upload.state)) continue;
    rows.set(target, row);
    row.take(file);
  }
  pump();
}

picker.addEventListener("change", () => {
  add(picker.files);
  picker.value = "";
});

let over = 0;
/** @param {number} change how many elements more the file is over */
function hover(change) {
  over = Math.max(0, over + change);
  section.classList.toggle("over", over > 0);
}
/** @param {DragEvent} event @returns {boolean} */
const hasFiles = (event) => event.dataTransfer?.types.includes("Files") ?? false;
document.addEventListener("dragenter", (event) => hasFiles(event) && hover(1));
document.addEventListener("dragleave", (event) => hasFiles(event) && hover(-1));
document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  hover(-over);
  add(event.dataTransfer.files);
});
window.addEventListener("beforeunload", (event) => {
  if ([...rows.values()].some((row) => row.upload?.isActive)) event.preventDefault();
});

section.hidden = false;
findBegun().catch(() => {});
