/*
 * fastcable-stream.js: an element that subscribes to streams for as long as it is in the page.
 *
 *   <script type="module" src="/fastcable-stream.js"></script>
 *   <fastcable-stream stream="scores heat:4"></fastcable-stream>
 *
 * A text with a <turbo-stream> in it is given to Turbo, if that is on the page, once however many elements name its
 * stream; every other message is a `turbo:stream-message` event, with {stream, data} as detail, that bubbles from each
 * element. What may have been missed is a `fastcable:missed` event, with the detail of the callback of that name. The
 * attribute `connected` is there while all the element's streams are live.
 *
 *   stream     names, separated by white space; or, for names that have some or begin with "[", a JSON array of strings
 *   url        of the cable path; elements with the same share a connection: sharedConsumer(url). Default: /cable
 *   retained   subscribes with `retained: true`
 *
 * An element that leaves the page keeps its subscriptions until the next task, but takes no messages. When Turbo puts
 * another page, a preview of one or an element from the page before in its place, or a script moves it, a stream that
 * stays therefore stays subscribed to, and nothing is lost between.
 */

import { sharedConsumer } from "./fastcable.js";

/** @import { Callbacks, Subscription } from "./fastcable.js" */

// Where there are no elements (a server renders the page, say), importing this does nothing.
const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? Object);

export class FastcableStreamElement extends Base {
  // Turbo's morphing takes away what the server did not write, and its cache keeps what was true once: see to our own.
  static observedAttributes = ["stream", "url", "connected"];

  #url = "";
  /** @type {Map<string, Subscription | null>} */ #subscriptions = new Map(); // null: of a name that no stream can have
  /** @type {Set<string>} */ #live = new Set();

  connectedCallback() {
    this.#update();
  }

  disconnectedCallback() {
    setTimeout(() => {
      if (this.isConnected) return;
      this.#keep(new Set());
      this.#show();
    });
  }

  /** @param {string} name */
  attributeChangedCallback(name) {
    if (name === "connected") this.#show();
    else if (this.isConnected) this.#update();
  }

  #update() {
    const url = this.getAttribute("url") ?? "/cable";
    const names = new Set(this.#names());
    this.#keep(url === this.#url ? names : new Set());
    this.#url = url;
    for (const name of names) if (!this.#subscriptions.has(name)) this.#subscribe(name);
    this.#show();
  }

  #names() {
    const value = this.getAttribute("stream")?.trim() ?? "";
    if (!value.startsWith("[")) return value ? value.split(/\s+/) : [];
    try {
      return JSON.parse(value);
    } catch {
      reportError(new SyntaxError(`fastcable: <fastcable-stream stream='${value}'> is no JSON array`));
      return [];
    }
  }

  /** @param {Set<string>} names */
  #keep(names) {
    for (const [name, subscription] of this.#subscriptions) {
      if (names.has(name)) continue;
      subscription?.unsubscribe();
      this.#subscriptions.delete(name);
      this.#live.delete(name);
    }
  }

  /** @param {string} name */
  #subscribe(name) {
    /** @param {boolean} live */
    const turned = (live) => {
      if (live) this.#live.add(name);
      else this.#live.delete(name);
      this.#show();
    };
    /** @type {Callbacks} */
    const callbacks = {
      connected: () => turned(true),
      disconnected: () => turned(false),
      received: (data) => this.#received(name, data),
      missed: (detail) => this.#dispatch("fastcable:missed", detail),
    };
    try {
      const retained = this.hasAttribute("retained");
      this.#subscriptions.set(name, sharedConsumer(this.#url).subscribe(name, callbacks, { retained }));
    } catch (error) {
      this.#subscriptions.set(name, null);
      reportError(error); // and go on with the other names
    }
  }

  /** @param {string} stream @param {any} data */
  #received(stream, data) {
    const { Turbo } = /** @type {any} */ (globalThis);
    if (!Turbo || typeof data !== "string" || !data.includes("<turbo-stream"))
      this.#dispatch("turbo:stream-message", { stream, data });
    else if (this.isConnected) once(`${stream}\n${data}`, () => Turbo.renderStreamMessage(data));
  }

  /** @param {string} name @param {object} detail */
  #dispatch(name, detail) {
    if (this.isConnected) this.dispatchEvent(new CustomEvent(name, { bubbles: true, composed: true, detail }));
  }

  #show() {
    this.toggleAttribute("connected", this.#live.size > 0 && this.#live.size === this.#subscriptions.size);
  }
}

/** @type {Set<string>} */
const told = new Set();

/**
 * A message is told to all subscribers in one go, and two messages are never told in the same: between them the browser
 * runs what waits as a microtask.
 * @param {string} message @param {() => void} act
 */
function once(message, act) {
  if (told.has(message)) return;
  if (!told.size) queueMicrotask(() => told.clear());
  told.add(message);
  act();
}

// A page may come to have the module twice, from two addresses.
if (!globalThis.customElements?.get("fastcable-stream"))
  globalThis.customElements?.define("fastcable-stream", FastcableStreamElement);
