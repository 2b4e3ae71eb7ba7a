// What the tests share: logs that can be waited for, a small server of the simple protocol on npm's ws, a clock.
import { once } from "node:events";
import { WebSocketServer } from "ws";

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

/** Callbacks that write down what they are called with: ["connected", {reconnected: false}] and so on. */
export function recorder(log = new Log()) {
  const names = ["connected", "received", "disconnected", "gap", "rejected"];
  return { log, ...Object.fromEntries(names.map((name) => [name, (value) => log.push([name, value])])) };
}

/**
 * A server of the simple protocol. `commands` has [socket number, type, stream] of all that arrived; `answers(command)`
 * gives the frame to answer a subscribe with, or nothing to keep silent; `greet(socket, number)` is called for each socket.
 */
export class Server {
  commands = new Log();
  sockets = new Log();
  answers = ({ stream }) => ({ type: "subscribed", stream });
  greet = () => {};

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
    const answer = command.type === "subscribe" && this.answers(command, number);
    if (answer) socket.send(JSON.stringify(answer));
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

  /** The commands other than pongs, as "subscribe scores". */
  get said() {
    return this.commands.filter(([, type]) => type !== "pong").map(([, type, stream]) => `${type} ${stream}`);
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
