/*
 * fastcable.js: subscribe to the streams of a fastcable server from a browser, a worker or Node.
 *
 *   import { createConsumer } from "/fastcable.js";
 *   const consumer = createConsumer();                                  // ws(s)://this.host/cable
 *   const scores = consumer.subscribe("scores", { received(data) { console.log(data); } });
 *   scores.unsubscribe();
 *
 * Theory of operation
 *
 * A consumer owns at most one WebSocket and is in one of four states:
 *
 *   closed      no socket, none planned: nobody is subscribed, disconnect() was called, or the server said that there
 *               is no use in coming back. The first subscribe() or hello(), or connect() after one of the others, moves
 *               it to connecting. (When the last subscriber leaves, an open socket is kept: the next page view of a
 *               single-page application will want it.)
 *   connecting  the handshake is under way. Its success leads to open; its failure, or 15 s, to waiting.
 *   open        commands may be sent. A close, or silence of more than two of the server's pings, leads to waiting.
 *   waiting     a timer runs until the next attempt, then connecting. Delays are random between 0 and a ceiling that
 *               doubles from 1 s to 30 s, so that the clients of a restarted server do not all return at once. The
 *               ceiling falls back when a connection proves good (an answer or a ping), not already when it opens:
 *               a server that accepts and at once closes must not be hammered. A page that was put away waits without
 *               a timer until it is shown again.
 *
 * A stream somebody is subscribed to is a topic, shared by all its subscribers: pending or live. Nothing is queued for
 * sending: a topic is asked for when its first member comes, if the socket is open, and all of them when it opens.
 * Every subscribe is answered once and in order, so a topic is live when the answers due for its stream are all in;
 * with subscribe, unsubscribe, subscribe in one burst, the first answer says nothing about the last command.
 * To each subscriber of each stream: connected, then missed if it was connected before, then received, gap and missed,
 * then disconnected, and so on, never outside this order.
 *
 * The server gives a stream's retained value once to each connection, after the answer that makes the topic live. For
 * subscribers that come later a topic keeps its last message, as text, since who was given the data may have changed
 * it; those that asked for it get it when they join. It is forgotten when it may not be the last one any more: with
 * the connection, and at a gap.
 *
 * The id of the socket is asked for when somebody wants it, from then on first thing on each connection.
 *
 * Subscribing again is harmless by contract and always answered. That is the remedy for an answer that never came, and
 * the probe for a connection that looks alive but may not be: after a sleep, a freeze, a change of network.
 */

const RETRY_BASE = 1_000;
const RETRY_CAP = 30_000;
const SILENCE = 75_000; // two pings of the server, 30 s apart, and some slack
const CONNECT_TIMEOUT = 15_000; // browsers themselves wait for minutes
const ANSWER_TIMEOUT = 10_000;
const MAX_NAME = 4_096; // bytes: a signed name is longer than what it stands for
const NAME = /^[^\x00-\x1f\x7f\p{Cs}]+$/u; // no control characters, no halves of surrogate pairs
const FOR_GOOD = new Map([[1008, "unauthorized"], [1000, "closed remotely for good"]]);
const OPEN = 1; // WebSocket.OPEN, which a constructor passed in need not have

/** @import { Callbacks, ConsumerOptions, State, SubscribeOptions } from "./fastcable.js" */
/** @typedef {{stream: string, members: Set<Member>, live: boolean, last: string | null, askedAt: number}} Topic */
/**
 * @typedef {object} Member of a topic, for a subscription
 * @property {Topic} topic @property {Callbacks} callbacks @property {boolean} retained
 * @property {boolean} live @property {boolean} wasLive @property {() => void} ended
 */

class StateChangeEvent extends Event {
  /** @param {State} state @param {number | null} retryAt @param {string | null} reason */
  constructor(state, retryAt, reason) {
    super("statechange");
    this.state = state;
    this.retryAt = retryAt;
    this.reason = reason;
  }
}

class Consumer extends EventTarget {
  // Settings
  #url;
  #WebSocket;
  #silence;
  onstatechange;

  // Per consumer
  /** @type {Map<string, Topic>} */ #topics = new Map();
  /** @type {State} */ #state = "closed";
  /** @type {number | null} */ #retryAt = null;
  /** @type {string | null} */ #reason = null; // what the server said when it closed the last connection
  /** @type {StateChangeEvent[]} */ #changes = []; // being told
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer; // waiting: the next attempt; else the watchdog
  #attempts = 0; // since a connection last proved good
  #attemptedAt = 0;
  #stopped = false; // by disconnect() or, for a reason, by the server
  #away = false; // the page is in the back/forward cache, or gone
  #wantsId = false;
  /** @type {ReturnType<typeof deferred> | undefined} */ #hello; // what hello() gave out while there is no id
  /** @type {AbortController | undefined} */ #events;

  // Per connection
  /** @type {any} */ #socket = null;
  /** @type {string | null} */ #socketId = null;
  #seen = 0; // when the last frame arrived
  #probing = false;
  /** @type {Map<string, number>} */ #due = new Map(); // stream -> answers yet to come
  /** @type {ReturnType<typeof setInterval> | undefined} */ #guard;

  /** @param {string | URL} url @param {ConsumerOptions} options */
  constructor(url, { WebSocket = globalThis.WebSocket, silenceTimeout = SILENCE, onstatechange } = {}) {
    super();
    if (!WebSocket) throw new TypeError("fastcable: no WebSocket here, pass one: createConsumer(url, { WebSocket })");
    this.#url = absolute(url);
    this.#WebSocket = WebSocket;
    this.#silence = silenceTimeout;
    this.onstatechange = onstatechange;
  }

  get url() { return this.#url; }
  get state() { return this.#state; }
  get retryAt() { return this.#retryAt; }
  get reason() { return this.#reason; }
  get socketId() { return this.#socketId; }

  /** @param {any} streams @param {Callbacks} callbacks @param {SubscribeOptions} options @returns {any} */
  subscribe(streams, callbacks = {}, { signal, retained = false } = {}) {
    const names = Array.isArray(streams) ? [...new Set(streams)] : [streams];
    names.forEach(checkName);
    const unsubscribe = () => members.forEach((member) => this.#leave(member));
    const ended = () => --left || signal?.removeEventListener("abort", unsubscribe);
    /** @type {Member[]} */
    const members = signal?.aborted ? [] : names.map((stream) => this.#enter(stream, callbacks, retained, ended));
    let left = members.length;
    if (left) {
      signal?.addEventListener("abort", unsubscribe);
      if (this.#state === "closed" && !this.#stopped) this.#open();
    }
    const subscription = { streams: names, unsubscribe };
    return Array.isArray(streams) ? subscription : { stream: streams, ...subscription };
  }

  /** The id of the connection, once there is one: it is asked for from now on. @returns {Promise<string>} */
  hello() {
    if (this.#socketId !== null) return Promise.resolve(this.#socketId);
    if (this.#stopped) return Promise.reject(stopped(this.#reason));
    this.#hello ??= deferred();
    if (!this.#wantsId) this.#send({ type: "hello" });
    this.#wantsId = true;
    if (this.#state === "closed") this.#open();
    return this.#hello.promise;
  }

  /** Allows connections again; while waiting, tries at once. @param {string | URL} url from the next connection on */
  connect(url = this.#url) {
    this.#url = absolute(url);
    this.#stopped = false;
    if (this.#state !== "closed" && this.#state !== "waiting") return;
    // A page that comes back by itself whenever it is refused is no busy loop.
    const soonest = this.#reason === null ? 0 : this.#soonest();
    this.#reason = null; // is told once
    if (soonest) this.#wait(soonest);
    else this.#open();
  }

  /** Closes the connection and stays closed until connect(). Subscriptions are kept. */
  disconnect() {
    this.#stop(null);
  }

  // Connection

  #open() {
    this.#away = false;
    this.#reason = null;
    clearTimeout(this.#timer);
    if (!this.#topics.size && !this.#hello) return this.#become("closed");
    this.#listen();
    this.#attemptedAt = this.#seen = performance.now();
    let socket;
    try {
      socket = this.#socket = new this.#WebSocket(this.#url);
    } catch (error) {
      report(error);
      return this.#lost();
    }
    // A socket given up is no longer this.#socket, and what it still says is ignored: the close event of a dead
    // connection can come minutes later.
    socket.onopen = () => socket === this.#socket && this.#opened();
    socket.onmessage = (/** @type {{data: any}} */ { data }) => socket === this.#socket && this.#receive(data);
    socket.onclose = (/** @type {any} */ event) => socket === this.#socket && this.#closed(event);
    socket.onerror = () => {}; // a close event follows; without a listener Node would take it for uncaught
    this.#watch(CONNECT_TIMEOUT);
    this.#become("connecting");
  }

  #opened() {
    this.#seen = performance.now();
    this.#watch(this.#silence);
    this.#guard = setInterval(() => this.#askAgain(), ANSWER_TIMEOUT);
    if (this.#wantsId) this.#send({ type: "hello" });
    for (const topic of this.#topics.values()) this.#ask(topic);
    this.#become("open");
  }

  // Where the server does not say that there is no use in it, the connection is tried again: a page cannot see the status
  // of a refused handshake, and a restart, say, or having been too slow change nothing about what to do next. Nor does a
  // token that has expired: the page, told of it, may have another, as a cookie or by connect(url).
  /** @param {{code?: number, reason?: string}} event */
  #closed({ code = 0, reason }) {
    if (!reason || FOR_GOOD.get(code) !== reason) return this.#lost(reason);
    console.warn("fastcable: the server closed the connection for good:", reason);
    this.#stop(reason);
  }

  /** @param {string} reason */
  #lost(reason = "") {
    const delay = Math.random() * Math.min(RETRY_CAP, RETRY_BASE * 2 ** this.#attempts++);
    this.#close(() => this.#wait(delay), true, reason || null);
  }

  /** @param {string | null} reason */
  #stop(reason) {
    this.#stopped = true;
    this.#away = false;
    this.#events = void this.#events?.abort();
    this.#hello = void this.#hello?.reject(stopped(reason));
    this.#close(() => this.#become("closed"), false, reason);
  }

  /** Milliseconds until the next attempt is no flapping. */
  #soonest() {
    return Math.max(0, this.#attemptedAt + RETRY_BASE - performance.now());
  }

  /** @param {number} delay */
  #wait(delay) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), delay);
    this.#become("waiting", Date.now() + delay);
  }

  // next() sets the new state before anybody is told, so that disconnected() sees it.
  /** @param {() => void} next @param {boolean} willReconnect @param {string | null} reason */
  #close(next, willReconnect, reason = null) {
    const socket = this.#socket;
    this.#socket = this.#socketId = null;
    this.#reason = reason;
    clearTimeout(this.#timer);
    clearInterval(this.#guard);
    this.#due.clear();
    this.#probing = false;
    socket?.close();
    const topics = [...this.#topics.values()];
    const told = topics.flatMap((topic) => [...topic.members].filter((member) => member.live));
    for (const each of [...topics, ...told]) each.live = false;
    for (const topic of topics) topic.last = null;
    next();
    for (const { callbacks, topic: { stream } } of told) call(callbacks, "disconnected", { stream, willReconnect });
  }

  /**
   * The watchdog gives the connection up when no frame arrived for `allowance` ms. Frames only stamp #seen, the timer
   * finds out later; and time is compared, not counted, because timers of a hidden page are late or do not run at all.
   * @param {number} allowance
   */
  #watch(allowance) {
    clearTimeout(this.#timer);
    const due = this.#seen + allowance;
    this.#timer = setTimeout(() => {
      const now = performance.now();
      if (now < this.#seen + allowance) return this.#watch(allowance);
      // A timer this late means the page was suspended: frames may wait behind it, so ask once before giving up.
      if (now - due > 5_000 && !this.#probing) return this.#probe(allowance);
      this.#lost();
    }, due - performance.now());
  }

  /** @param {number} allowance */
  #probe(allowance) {
    this.#probing = true;
    const [topic] = this.#topics.values();
    if (topic) this.#ask(topic);
    this.#seen = performance.now() - Math.max(0, allowance - ANSWER_TIMEOUT);
    this.#watch(allowance);
  }

  /** The page is back on the screen or on the network: no need to wait any longer, no reason to trust the socket. */
  #wake() {
    if (this.#away) {
      this.#open();
    } else if (this.#state === "waiting") {
      const soonest = this.#soonest();
      if (Date.now() + soonest < (this.#retryAt ?? 0)) this.#wait(soonest);
    } else if (this.#state === "open" && this.#topics.size && !this.#probing) {
      this.#probe(this.#silence);
    }
  }

  #listen() {
    if (this.#events || !globalThis.addEventListener) return;
    this.#events = new AbortController();
    const { signal } = this.#events;
    addEventListener("online", () => this.#wake(), { signal });
    addEventListener("pageshow", (event) => event.persisted && this.#wake(), { signal });
    // An open WebSocket keeps a page out of the back/forward cache, or is cut off when it enters, and a frozen page
    // would answer no pings anyway. So close before leaving, whether or not the page will be cached, and come back in
    // pageshow; the server learns at once that nobody reads any more.
    const leave = () => {
      if (this.#state === "closed") return;
      this.#away = true;
      this.#close(() => this.#become("waiting"), true);
    };
    addEventListener("pagehide", leave, { signal });
    globalThis.document?.addEventListener("visibilitychange", () => document.hidden || this.#wake(), { signal });
  }

  /** @param {State} state @param {number | null} retryAt */
  #become(state, retryAt = null) {
    if (state === this.#state && retryAt === this.#retryAt) return;
    this.#state = state;
    this.#retryAt = retryAt;
    // What a listener changes is told when all have heard of the change before.
    if (this.#changes.push(new StateChangeEvent(state, retryAt, this.#reason)) > 1) return;
    for (const change of this.#changes) {
      call(this, "onstatechange", change);
      this.dispatchEvent(change);
    }
    this.#changes = [];
  }

  // Commands and frames

  /** @param {{type: string, stream?: string}} command */
  #send(command) {
    if (this.#socket?.readyState !== OPEN) return false;
    this.#socket.send(JSON.stringify(command));
    return true;
  }

  /** @param {Topic} topic */
  #ask(topic) {
    if (!this.#send({ type: "subscribe", stream: topic.stream })) return;
    this.#due.set(topic.stream, (this.#due.get(topic.stream) ?? 0) + 1);
    topic.askedAt = performance.now();
  }

  #askAgain() {
    if (this.#wantsId && this.#socketId === null) this.#send({ type: "hello" });
    for (const topic of this.#topics.values()) {
      if (topic.live || performance.now() - topic.askedAt < ANSWER_TIMEOUT / 2) continue;
      this.#due.delete(topic.stream); // what did not come until now is not waited for
      this.#ask(topic);
    }
  }

  /** Takes note of an answer; true if it is the one to the latest subscribe of its stream. @param {string} stream */
  #answered(stream) {
    const left = (this.#due.get(stream) ?? 1) - 1;
    if (left) this.#due.set(stream, left);
    else this.#due.delete(stream);
    return !left;
  }

  /** @param {string} text */
  #receive(text) {
    this.#seen = performance.now();
    this.#probing = false;
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return;
    }
    const topic = this.#topics.get(frame?.stream);
    // Types unknown here may come from a newer server, and are none of the application's business.
    switch (frame?.type) {
      case "message":
        if (topic?.live) topic.last = text;
        return this.#tell(topic, "received", frame.data, { stream: frame.stream });
      case "gap":
        if (topic) topic.last = null;
        this.#tell(topic, "gap", { stream: frame.stream, missed: frame.missed });
        return this.#tell(topic, "missed", { stream: frame.stream, reason: "gap", count: frame.missed });
      case "ping":
        this.#attempts = 0;
        this.#send({ type: "pong" });
        return;
      case "subscribed":
        this.#attempts = 0;
        if (!this.#answered(frame.stream) || !topic) return;
        topic.live = true;
        for (const member of topic.members) this.#join(member);
        return;
      case "hello":
        this.#attempts = 0;
        this.#socketId = frame.socket;
        this.#hello = void this.#hello?.resolve(frame.socket);
        return;
      case "error":
        if (frame.stream === undefined) {
          console.warn("fastcable:", frame.reason);
          // Of our commands only hello can be refused without a stream, by a server that does not know it.
          if (this.#wantsId && this.#socketId === null) {
            this.#wantsId = false;
            this.#hello = void this.#hello?.reject(new Error(`fastcable: no socket id: ${frame.reason}`));
          }
        } else if (this.#answered(frame.stream) && topic) this.#reject(topic, frame.reason);
    }
  }

  // Subscribers

  /** @param {string} stream @param {Callbacks} callbacks @param {boolean} retained @param {() => void} ended */
  #enter(stream, callbacks, retained, ended) {
    const known = this.#topics.get(stream);
    const topic = known ?? { stream, members: new Set(), live: false, last: null, askedAt: 0 };
    const member = { topic, callbacks, retained, live: false, wasLive: false, ended };
    topic.members.add(member);
    // Later, so that the caller has its subscription in hand when connected() runs.
    if (known) queueMicrotask(() => this.#join(member));
    else {
      this.#topics.set(stream, topic);
      this.#ask(topic);
    }
    return member;
  }

  /** @param {Topic | undefined} topic @param {"received" | "gap" | "missed"} name @param {any[]} values */
  #tell(topic, name, ...values) {
    for (const member of topic?.members ?? []) if (member.live) call(member.callbacks, name, ...values);
  }

  /** @param {Member} member */
  #join(member) {
    const { stream, live, last } = member.topic;
    if (member.live || !live) return;
    const reconnected = member.wasLive;
    member.live = member.wasLive = true;
    call(member.callbacks, "connected", { stream, reconnected });
    if (reconnected && member.live) call(member.callbacks, "missed", { stream, reason: "reconnect" });
    if (!member.retained || last === null || !member.live) return;
    const { data } = JSON.parse(last);
    if (data !== null) call(member.callbacks, "received", data, { stream }); // null: no value is retained any more
  }

  /** @param {Member} member */
  #leave(member) {
    const { topic } = member;
    member.live = false;
    member.callbacks = {}; // nothing is called any more, not even by a loop that is under way
    if (!topic.members.delete(member)) return;
    member.ended();
    if (topic.members.size) return;
    this.#topics.delete(topic.stream);
    topic.live = false;
    this.#send({ type: "unsubscribe", stream: topic.stream });
  }

  /** @param {Topic} topic @param {string} reason */
  #reject(topic, reason) {
    const { stream } = topic;
    this.#topics.delete(stream);
    const members = [...topic.members];
    topic.members.clear();
    topic.live = false;
    for (const member of members) {
      member.live = false;
      member.ended();
      if (member.callbacks.rejected) call(member.callbacks, "rejected", { stream, reason });
      else console.warn(`fastcable: subscription to "${stream}" refused: ${reason}`);
    }
  }
}

/** @param {unknown} name */
function checkName(name) {
  // The server knows which names are good, but its error frame repeats none that is longer, so nobody could be told.
  if (typeof name !== "string" || !NAME.test(name) || new TextEncoder().encode(name).length > MAX_NAME)
    throw new TypeError(`fastcable: a stream name is 1 to ${MAX_NAME} bytes of text without control characters`);
}

/** @param {any} target @param {string} name @param {any[]} values */
function call(target, name, ...values) {
  try {
    target[name]?.(...values);
  } catch (error) {
    report(error);
  }
}

/** A promise of a text, and what settles it. A rejection that nobody waits for is no uncaught error. */
function deferred() {
  /** @type {(text: string) => void} */ let resolve = () => {};
  /** @type {(error: Error) => void} */ let reject = () => {};
  /** @type {Promise<string>} */
  const promise = new Promise((...both) => ([resolve, reject] = both));
  promise.catch(() => {});
  return { promise, resolve, reject };
}

/** Why there is no socket id. @param {string | null} reason of the server */
function stopped(reason) {
  const why = reason === null ? "disconnect() was called" : `the server closed the connection: ${reason}`;
  return new Error(`fastcable: no socket id, because ${why}`);
}

/** Shows an error of the application as uncaught, without letting it stop anything here. @param {any} error */
function report(error) {
  if ("reportError" in globalThis) return reportError(error);
  queueMicrotask(() => {
    throw error; // Node
  });
}

/** @param {string | URL} url */
function absolute(url) {
  const resolved = new URL(url, globalThis.location?.href);
  resolved.protocol = resolved.protocol.replace("http", "ws");
  resolved.hash = "";
  return resolved.href;
}

/**
 * @param {string | URL} url of the cable path, relative to the page @param {ConsumerOptions} [options]
 * @returns {import("./fastcable.js").Consumer}
 */
export function createConsumer(url = "/cable", options = {}) {
  return new Consumer(url, options);
}

/** @type {Map<string, Consumer>} */
const shared = new Map();

/**
 * The page's own consumer of a URL: calls with the same URL share one, with the options of the first call.
 * @param {string | URL} url @param {ConsumerOptions} [options] @returns {import("./fastcable.js").Consumer}
 */
export function sharedConsumer(url = "/cable", options = {}) {
  const key = absolute(url);
  const consumer = shared.get(key) ?? new Consumer(key, options);
  shared.set(key, consumer);
  return consumer;
}

/**
 * For a page with a stream or two: subscribes over the shared consumer.
 * @param {any} streams @param {Callbacks} callbacks
 * @param {ConsumerOptions & SubscribeOptions & {url?: string | URL}} [options] @returns {any}
 */
export function createCableSubscription(streams, callbacks, { url, signal, retained, ...options } = {}) {
  return sharedConsumer(url, options).subscribe(streams, callbacks, { signal, retained });
}
