/**
 * One file on its way to the server by tus 1.0, in parts whose digests are checked, and the whole at the end.
 *
 * The server alone remembers how far an upload is: where the way there or the page itself breaks,
 * the same file goes on where it was.
 * @module tus
 */

const MIB = 1024 * 1024;
const SMALLEST = MIB / 4;
const LARGEST = 8 * MIB;
const FIRST = MIB;
/** A part should take about so long: what breaks loses no more than that. */
const PART_MS = 2_000;
const RATE_MS = 8_000;
const STALL_MS = 90_000;
const WAITS_MS = [500, 1_000, 2_000, 5_000, 10_000, 20_000];
const LOOK_MS = 1_000;
/** What another try may mend: a part that was garbled, a place that is taken, a server that is away or full. */
const PASSING = new Set([0, 408, 409, 410, 423, 425, 429, 460, 500, 502, 503, 504, 507]);

/** Why an upload does not go on; `passes` if it may do so by itself. */
export class Trouble extends Error {
  /** @param {string} message @param {number} [status] of the answer, 0 for none, -1 for no question */
  constructor(message, status = -1) {
    super(message);
    this.status = status;
  }

  get passes() {
    return PASSING.has(this.status);
  }
}

/** @param {string} text @returns {string} */
const encoded = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

/** @param {string} text @returns {string} */
const decoded = (text) => new TextDecoder().decode(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));

/** @param {File} file @param {string} target @returns {string} what tells the server where it goes, and us which file it is */
const metadata = (file, target) =>
  `path ${encoded(target)},filename ${encoded(file.name)},modified ${encoded(String(file.lastModified))}`;

/** @param {string} text @returns {Map<string, string>} */
export function readMetadata(text) {
  const pairs = text.split(",").map((pair) => pair.trim().split(" "));
  return new Map(pairs.map(([key, value]) => [key, value ? decoded(value) : ""]));
}

/**
 * @param {{method: string, address: string, headers?: Record<string, string>, body?: Blob}} wanted
 * @param {{progress?: (sent: number) => void, signal?: AbortSignal}} [options]
 * @returns {Promise<XMLHttpRequest>} the answer; `fetch` does not tell how much of a body has gone
 */
function ask({ method, address, headers = {}, body }, { progress, signal } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let timer = 0;
    const watch = () => {
      window.clearTimeout(timer);
      timer = window.setTimeout(() => request.abort(), STALL_MS);
    };
    const stop = () => request.abort();
    request.open(method, address);
    const token = document.querySelector('meta[name="xsrf"]')?.getAttribute("content") ?? "";
    const all = { "Tus-Resumable": "1.0.0", "X-XSRFToken": token, ...headers };
    for (const [name, value] of Object.entries(all)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => {
      watch();
      progress?.(event.loaded);
    };
    // The server may have to read a large file once more before it answers: it decides how long that may take.
    request.upload.onload = () => window.clearTimeout(timer);
    request.onload = () => resolve(request);
    request.onerror = request.onabort = () => reject(new Trouble("The server does not answer.", 0));
    request.onloadend = () => {
      window.clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
    };
    signal?.addEventListener("abort", stop);
    if (body) watch();
    if (signal?.aborted) reject(new Trouble("It rests.", 0));
    else request.send(body ?? null);
  });
}

/** @param {XMLHttpRequest} answer @returns {any} what it says, as JSON */
function told(answer) {
  try {
    return JSON.parse(answer.responseText);
  } catch {
    return {};
  }
}

/** @param {string} text @returns {string} */
const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

/** @param {XMLHttpRequest} answer @param {number} good @returns {XMLHttpRequest} */
function check(answer, good) {
  if (answer.status === good) return answer;
  const why = answer.status === 401 ? "your session is over: sign in again, then go on" : told(answer).error?.message;
  throw new Trouble(sentence(why || `the server answered ${answer.status}`), answer.status);
}

/** @param {number} ms @param {AbortSignal} signal @returns {Promise<void>} over early when the network is back */
function rest(ms, signal) {
  return new Promise((resolve) => {
    const timer = window.setTimeout(resolve, ms);
    const go = () => {
      window.clearTimeout(timer);
      resolve();
    };
    window.addEventListener("online", go, { once: true, signal });
    signal.addEventListener("abort", go, { once: true });
  });
}

/**
 * A file on its way.  `state` is one of waiting, checking, sending, stuck, ending, paused, failed, done, gone;
 * `why` says what is wrong with one that is stuck or failed.
 */
export class Upload {
  state = "waiting";
  why = "";
  offset = 0;
  sent = 0;
  /** How much of what is there already was read again. */
  read = 0;
  sha256 = "";
  #size = FIRST;
  #stop = new AbortController();
  /** @type {Array<[number, number]>} */
  #samples = [];
  /** @type {Worker | null} */
  #worker = null;
  /** @type {{from: number, to: number, digests: Promise<{part: string, whole: string}>} | null} */
  #ready = null;

  /**
   * @param {File} file
   * @param {string} target where it goes: a path of an area, or an address
   * @param {{address?: string, changed?: (upload: Upload) => void}} [options] `address` of what was begun before
   */
  constructor(file, target, { address = "", changed = () => {} } = {}) {
    this.file = file;
    this.target = target;
    this.address = address;
    this.changed = changed;
  }

  /** @returns {number} bytes per second, of late */
  get rate() {
    const [first] = this.#samples;
    const last = this.#samples.at(-1);
    return first && last[0] > first[0] ? Math.max(0, (1000 * (last[1] - first[1])) / (last[0] - first[0])) : 0;
  }

  /** @returns {boolean} whether leaving the page would break something off */
  get isActive() {
    return ["checking", "sending", "stuck", "ending"].includes(this.state);
  }

  /** Send it, or go on with it; returns when it has ended or rests. */
  async run() {
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    let tries = 0;
    let before = -1;
    while (!signal.aborted) {
      try {
        await this.#send(signal);
        this.#end("done");
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 410) this.address = "";
        if (!(error instanceof Trouble && error.passes)) {
          this.#end("failed", error.message);
          return;
        }
        tries = this.offset > before ? 0 : tries + 1;
        before = this.offset;
        this.#set("stuck", error.message);
        await rest(WAITS_MS[Math.min(tries, WAITS_MS.length - 1)], signal);
      }
    }
  }

  /** Let it rest; `run` goes on with it. */
  pause() {
    this.#stop.abort();
    this.sent = this.offset;
    this.#end("paused");
  }

  /** Throw it away, and what has come of it. */
  async discard() {
    this.#stop.abort();
    this.#end("gone");
    const { signal } = new AbortController();
    for (const wait of this.address ? WAITS_MS : []) {
      const answer = await ask({ method: "DELETE", address: this.address });
      if (answer.status !== 423) return; // else the part that was under way is still being put away
      await rest(wait, signal);
    }
  }

  /** @param {string} state @param {string} [why] */
  #set(state, why = "") {
    if (state !== "sending") this.#samples = [];
    [this.state, this.why] = [state, why];
    this.changed(this);
  }

  /** @param {string} state @param {string} [why] */
  #end(state, why) {
    this.#worker?.terminate();
    this.#worker = this.#ready = null;
    this.#set(state, why);
  }

  /** @param {AbortSignal} signal */
  async #send(signal) {
    let view = await this.#begun(signal);
    while (view.stage === "open" && this.offset < this.file.size) {
      await this.#sendPart(signal);
      if (this.offset === this.file.size) view = await this.#look(signal);
    }
    while (view.stage !== "stored") {
      if (view.stage === "failed") {
        this.address = ""; // who tries again begins anew
        throw new Trouble(sentence(view.error));
      }
      this.#set("ending", view.error);
      await rest(LOOK_MS, signal);
      view = await this.#look(signal);
    }
    this.sha256 = view.sha256;
  }

  /** Find out how far it is, or begin it. @param {AbortSignal} signal @returns {Promise<any>} */
  async #begun(signal) {
    if (this.address) {
      const answer = await ask({ method: "GET", address: this.address }, { signal });
      const view = answer.status === 404 ? null : told(check(answer, 200));
      if (view && view.stage !== "expired") return this.#found(view);
    }
    const headers = { "Upload-Length": String(this.file.size), "Upload-Metadata": metadata(this.file, this.target) };
    const answer = await ask({ method: "POST", address: "/tus", headers }, { signal });
    this.address = check(answer, 201).getResponseHeader("Location") ?? "";
    return this.#look(signal);
  }

  /** @param {AbortSignal} signal @returns {Promise<any>} what the server knows of it */
  async #look(signal) {
    return this.#found(told(check(await ask({ method: "GET", address: this.address }, { signal }), 200)));
  }

  /** @param {any} view */
  #found(view) {
    this.offset = this.sent = view.offset;
    return view;
  }

  /** @param {AbortSignal} signal */
  async #sendPart(signal) {
    const { from, to, digests } = this.#prepared(this.offset);
    if (this.state !== "sending") this.#set(from && !this.read ? "checking" : "sending");
    const { part, whole } = await digests;
    if (signal.aborted) throw new Trouble("It rests.", 0);
    this.#set("sending");
    const begun = performance.now();
    const headers = {
      "Content-Type": "application/offset+octet-stream",
      "Upload-Offset": String(from),
      "Upload-Checksum": `sha256 ${part}`,
      ...(to === this.file.size ? { Digest: `sha-256=${whole}` } : {}),
    };
    const sending = ask(
      { method: "PATCH", address: this.address, headers, body: this.file.slice(from, to) },
      { signal, progress: (sent) => this.#moved(Math.min(to, from + sent)) },
    );
    if (to < this.file.size) this.#prepared(to);
    const answer = check(await sending, 204);
    this.offset = Number(answer.getResponseHeader("Upload-Offset"));
    this.#moved(this.offset);
    this.#adapt(to - from, performance.now() - begun);
  }

  /** Larger parts where they go fast, smaller ones where a broken line would lose much. @param {number} size @param {number} ms */
  #adapt(size, ms) {
    if (size < this.#size) return;
    if (ms < PART_MS / 2) this.#size = Math.min(LARGEST, 2 * this.#size);
    if (ms > 2 * PART_MS) this.#size = Math.max(SMALLEST, this.#size / 2);
  }

  /** @param {number} sent */
  #moved(sent) {
    this.sent = sent;
    const now = performance.now();
    this.#samples.push([now, sent]);
    this.#samples = this.#samples.filter(([at]) => now - at < RATE_MS);
    this.changed(this);
  }

  /** The next part with its digests, which are made while the one before is on its way. @param {number} from */
  #prepared(from) {
    if (this.#ready?.from !== from) {
      const to = Math.min(this.file.size, from + this.#size);
      const digests = this.#digests(from, to, this.#stop.signal);
      digests.catch(() => {}); // whoever waits for them is told
      this.#ready = { from, to, digests };
    }
    return this.#ready;
  }

  /** @param {number} from @param {number} to @param {AbortSignal} signal @returns {Promise<{part: string, whole: string}>} */
  #digests(from, to, signal) {
    this.#worker ??= new Worker(new URL("./hashing.js", import.meta.url), { type: "module" });
    const worker = this.#worker;
    return new Promise((resolve, reject) => {
      const fail = () => reject(new Trouble("The file can't be read: it changed, is gone, or is a folder. Pick it again."));
      signal.addEventListener("abort", () => reject(new Trouble("It rests.", 0)), { once: true });
      worker.addEventListener("error", fail, { once: true });
      worker.addEventListener("message", ({ data }) => {
        if (data.from !== from || data.to !== to) return;
        if (data.error) fail();
        else if (data.part) resolve(data);
        else {
          this.read = data.read;
          this.changed(this);
        }
      });
      worker.postMessage({ file: this.file, from, to });
    });
  }
}
