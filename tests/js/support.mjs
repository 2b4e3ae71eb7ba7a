// What the tests share: logs that can be waited for, a small server of the simple protocol on npm's ws, a clock.
import { once } from "node:events";
import WebSocket, { WebSocketServer } from "ws";
import { createConsumer } from "../../fastcable/client/fastcable.js";

/** A list that tests wait on instead of sleeping. */
export class Log extends Array {
  #waiting = new Set();

  push(...entries) {
    super.push(...entries);
    for (const check of [...this.#waiting]) check();
    return this.length;
  }

  /** Resolves to the log as soon as `done(log)` holds. */
  until(done) {
    return new Promise((resolve) => {
      const check = () => {
        if (!done(this)) return;
        this.#waiting.delete(check);
        resolve(this);
      };
      this.#waiting.add(check);
      check();
    });
  }

  count(length) {
    return this.until((log) => log.length >= length);
  }

  static get [Symbol.species]() {
    return Array;
  }
}

/** Callbacks that write down what they are told of one stream: ["connected", {reconnected: false}] and so on. */
export function recorder(log = new Log()) {
  const names = ["connected", "disconnected", "gap", "rejected"];
  const note = (name) => ({ stream, ...info }) => log.push([name, info]);
  const callbacks = Object.fromEntries(names.map((name) => [name, note(name)]));
  return { log, ...callbacks, received: (data) => log.push(["received", data]) };
}

/** Callbacks that write down all they are told, of any stream: ["received", "scores", 7] and so on. */
export function chronicle(log = new Log()) {
  const names = ["connected", "disconnected", "gap", "missed", "rejected"];
  const note = (name) => ({ stream, ...info }) => log.push([name, stream, info]);
  const callbacks = Object.fromEntries(names.map((name) => [name, note(name)]));
  return { log, ...callbacks, received: (data, { stream }) => log.push(["received", stream, data]) };
}

/** A consumer that is disconnected when the test ends; `changes` has its states as [state, ms to the next attempt]. */
export function consumerOf(t, url, options = {}) {
  const changes = new Log();
  const onstatechange = ({ state, retryAt }) => changes.push([state, retryAt === null ? null : retryAt - Date.now()]);
  const consumer = createConsumer(url, { WebSocket, onstatechange, ...options });
  t.after(() => consumer.disconnect());
  const reached = (state, times = 1) => changes.until((log) => log.filter(([name]) => name === state).length >= times);
  return { consumer, changes, reached };
}

/**
 * A server of the simple protocol. `commands` has [socket number, type, stream] of all that arrived; `answers(command)`
 * gives the frame to answer a subscribe with, or nothing to keep silent, `hello(number)` that to a hello; `retained` has
 * the values that new subscriptions start with; `greet(socket, number)` is called for each socket.
 */
export class Server {
  commands = new Log();
  sockets = new Log();
  answers = ({ stream }) => ({ type: "subscribed", stream });
  greet = () => {};
  hello = (number) => ({ type: "hello", socket: `id-${number}` });
  retained = new Map();
  streams = new WeakMap(); // socket -> those it is in

  static async start(t, options = {}) {
    const server = new Server();
    Object.assign(server, options);
    await server.listen(0);
    t.after(() => server.stop());
    return server;
  }

  async listen(port) {
    this.wss = new WebSocketServer({ host: "127.0.0.1", port, verifyClient: this.verifyClient });
    this.wss.on("connection", (socket) => {
      const number = this.sockets.length;
      socket.on("message", (data) => this.#command(socket, number, JSON.parse(data)));
      socket.on("error", () => {});
      this.streams.set(socket, new Set());
      this.sockets.push(socket);
      this.greet(socket, number);
    });
    await once(this.wss, "listening");
    this.port = this.wss.address().port;
    this.url = `ws://127.0.0.1:${this.port}/cable`;
  }

  /** Closes the port and cuts off every connection, as a killed process does. */
  async stop() {
    for (const socket of this.wss.clients) socket.terminate();
    await new Promise((resolve) => this.wss.close(resolve));
  }

  #command(socket, number, command) {
    this.commands.push([number, command.type, command.stream]);
    const { type, stream } = command;
    const streams = this.streams.get(socket);
    const say = (frame) => frame && socket.send(JSON.stringify(frame));
    if (type === "hello") say(this.hello(number));
    if (type === "unsubscribe") streams.delete(stream);
    if (type !== "subscribe") return;
    say(this.answers(command, number));
    const data = streams.has(stream) ? undefined : this.retained.get(stream);
    if (data !== undefined) say({ type: "message", stream, data });
    streams.add(stream);
  }

  get socket() {
    return this.sockets.at(-1);
  }

  send(frame) {
    this.socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  publish(stream, data) {
    this.send({ type: "message", stream, data });
  }

  /** A round trip: when it resolves, the client has handled all frames so far, and all it sent is in `commands`. */
  async settled() {
    const pongs = () => this.commands.filter(([, type]) => type === "pong").length;
    const before = pongs();
    this.send({ type: "ping" });
    await this.commands.until(() => pongs() > before);
  }

  /** The commands other than pongs, as "subscribe scores" and "hello". */
  get said() {
    const said = this.commands.filter(([, type]) => type !== "pong");
    return said.map(([, type, stream]) => (stream === undefined ? type : `${type} ${stream}`));
  }
}

/**
 * Timers, Date.now() and performance.now() stand still until tick(ms); with suspend(ms) the monotonic clock goes on while
 * no timer runs. (node:test's own mock timers, as of Node 20, drop a timer when one that already ran is cleared.)
 */
export function stopClock(t) {
  let now = 1_000_000;
  let suspended = 0;
  let last = 0;
  const timers = new Map();
  const add = (run, delay = 0, period = null) => timers.set(++last, { run, due: now + delay, period }) && last;
  const { clearTimeout: clear } = globalThis;
  const remove = (id) => timers.delete(id) || clear(id); // a socket of the test before may still clear its own
  t.mock.method(globalThis, "setTimeout", (run, delay) => add(run, delay));
  t.mock.method(globalThis, "setInterval", (run, period) => add(run, period, period));
  t.mock.method(globalThis, "clearTimeout", remove);
  t.mock.method(globalThis, "clearInterval", remove);
  t.mock.method(Date, "now", () => 1_700_000_000_000 + now);
  t.mock.method(performance, "now", () => now + suspended);
  return {
    tick(ms) {
      const end = now + ms;
      for (;;) {
        const [id, next] = [...timers].reduce((a, b) => (b[1].due < a[1].due ? b : a), [0, { due: Infinity }]);
        if (next.due > end) break;
        now = next.due;
        if (next.period === null) timers.delete(id);
        else next.due += next.period;
        next.run();
      }
      now = end;
    },
    suspend: (ms) => (suspended += ms),
  };
}
