// The consumer's own: its state as events, and the id of its socket.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { promisify } from "node:util";
import { Log, Server, chronicle, consumerOf, recorder, stopClock } from "./support.mjs";

const check = (name, run) => test(name, { timeout: 20_000 }, run);

// State

check("each change of state is an event, told after onstatechange", async (t) => {
  const clock = stopClock(t);
  t.mock.method(Math, "random", () => 0.5);
  const server = await Server.start(t);
  const log = new Log();
  const note = (who) => ({ type, state, retryAt }) => log.push([who, type, state, retryAt && retryAt - Date.now()]);
  const { consumer } = consumerOf(t, server.url, { onstatechange: note("property") });
  assert.ok(consumer instanceof EventTarget);
  const controller = new AbortController();
  consumer.addEventListener("statechange", note("listener"), { signal: controller.signal });
  consumer.subscribe("s");
  await log.count(4);
  server.socket.terminate();
  await log.count(6);
  controller.abort();
  clock.tick(500);
  await log.count(8);
  const change = (state, delay = null) => ["property", "listener"].map((who) => [who, "statechange", state, delay]);
  assert.deepEqual([...log], [
    ...["connecting", "open"].flatMap((state) => change(state)),
    ...change("waiting", 500),
    ["property", "statechange", "connecting", null],
    ["property", "statechange", "open", null],
  ]);
  assert.equal(getEventListeners(consumer, "statechange").length, 0);
});

check("a change that a listener makes is told to all after the one they are being told of", async (t) => {
  stopClock(t);
  const server = await Server.start(t);
  const log = new Log();
  const { consumer } = consumerOf(t, server.url);
  const one = recorder();
  consumer.addEventListener("statechange", ({ state }) => {
    log.push(["first", state, consumer.state]);
    if (state === "waiting") consumer.connect();
  });
  consumer.addEventListener("statechange", ({ state }) => log.push(["second", state, consumer.state]));
  consumer.subscribe("s", one);
  await one.log.count(1);
  log.length = 0;
  server.socket.terminate();
  await one.log.count(3);
  assert.deepEqual([...log], [
    ["first", "waiting", "waiting"],
    ["second", "waiting", "connecting"],
    ["first", "connecting", "connecting"],
    ["second", "connecting", "connecting"],
    ["first", "open", "open"],
    ["second", "open", "open"],
  ]);
});

// What the server says when it closes

const endings = { 1008: "unauthorized", 1000: "closed remotely for good" };
for (const [code, reason] of Object.entries(endings))
  check(`closed with ${code} "${reason}", it stays closed until connect()`, async (t) => {
    const clock = stopClock(t);
    const warnings = new Log();
    t.mock.method(console, "warn", (...words) => warnings.push(words.join(" ")));
    const server = await Server.start(t);
    const log = new Log();
    const { consumer } = consumerOf(t, server.url, {
      onstatechange: (event) => log.push([event.state, event.retryAt, event.reason, event.reason === consumer.reason]),
    });
    const one = recorder();
    consumer.subscribe("s", one);
    await one.log.count(1);
    server.greet = (socket) => socket.close(+code, reason); // and those to come
    server.socket.close(+code, reason);
    await log.count(3);
    clock.tick(600_000);
    consumer.subscribe("later");
    assert.deepEqual([...one.log.slice(1)], [["disconnected", { willReconnect: false }]]);
    await assert.rejects(consumer.hello(), { message: `fastcable: no socket id, because the server closed the connection: ${reason}` });
    assert.equal(server.sockets.length, 1);
    server.greet = () => {};
    consumer.connect();
    await one.log.count(3);
    assert.deepEqual([...log], [
      ["connecting", null, null, true],
      ["open", null, null, true],
      ["closed", null, reason, true],
      ["connecting", null, null, true],
      ["open", null, null, true],
    ]);
    assert.deepEqual(one.log[2], ["connected", { reconnected: true }]);
    assert.deepEqual(server.said, ["subscribe s", "subscribe s", "subscribe later"]);
    assert.deepEqual([...warnings], [`fastcable: the server closed the connection for good: ${reason}`]);
  });

check("refused at once, it stays closed, and what waits for an id is told", async (t) => {
  const clock = stopClock(t);
  t.mock.method(console, "warn", () => {});
  const server = await Server.start(t, { greet: (socket) => socket.close(1008, "unauthorized") });
  const { consumer, reached } = consumerOf(t, server.url);
  const { log, ...callbacks } = chronicle();
  consumer.subscribe(["a", "b"], callbacks);
  await assert.rejects(consumer.hello(), /no socket id.*unauthorized/);
  await reached("closed");
  clock.tick(600_000);
  assert.equal(server.sockets.length, 1);
  assert.equal(consumer.reason, "unauthorized");
  assert.equal(log.length, 0, "nobody was connected");
  consumer.disconnect();
  assert.equal(consumer.reason, null);
  await assert.rejects(consumer.hello(), /disconnect\(\)/);
});

check("refused pages that call connect() each time come once a second", async (t) => {
  const clock = stopClock(t);
  t.mock.method(console, "warn", () => {});
  const server = await Server.start(t, { greet: (socket) => socket.close(1008, "unauthorized") });
  const { consumer, changes, reached } = consumerOf(t, server.url);
  consumer.addEventListener("statechange", ({ state }) => state === "closed" && consumer.connect());
  consumer.subscribe("s");
  for (const times of [1, 2, 3]) {
    await reached("waiting", times);
    assert.deepEqual(changes.at(-1), ["waiting", 1_000]);
    clock.tick(999);
    assert.equal(server.sockets.length, times);
    clock.tick(1);
    await server.sockets.count(times + 1);
  }
});

check("after a token has expired, it tries again, and at once where the page has a new address", async (t) => {
  const clock = stopClock(t);
  t.mock.method(Math, "random", () => 0.5);
  const server = await Server.start(t);
  const { consumer, changes } = consumerOf(t, `${server.url}?jid=old`);
  const one = recorder();
  consumer.subscribe("s", one);
  await one.log.count(1);
  clock.tick(5_000);
  server.greet = (socket) => socket.close(1008, "token expired");
  server.socket.close(1008, "token expired");
  await changes.count(3);
  assert.deepEqual([changes.at(-1), consumer.reason], [["waiting", 500], "token expired"]);
  clock.tick(500);
  await changes.count(6);
  assert.deepEqual([changes.at(-1), consumer.reason], [["waiting", 1_000], "token expired"]);
  assert.deepEqual(one.log[1], ["disconnected", { willReconnect: true }]);
  const asked = [];
  server.greet = () => {};
  server.wss.on("connection", (socket, request) => asked.push(request.url));
  clock.tick(999);
  consumer.connect(`${server.url}?jid=new`);
  assert.equal(consumer.url, `${server.url}?jid=new`);
  clock.tick(1);
  await one.log.count(3);
  server.socket.terminate();
  await one.log.count(4);
  clock.tick(1_000);
  await one.log.count(5);
  assert.deepEqual(asked, ["/cable?jid=new", "/cable?jid=new"]);
});

check("any other reason is told and changes nothing", async (t) => {
  const clock = stopClock(t);
  t.mock.method(Math, "random", () => 0.5);
  const server = await Server.start(t);
  const { consumer, changes } = consumerOf(t, server.url);
  const one = recorder();
  consumer.subscribe("s", one);
  await one.log.count(1);
  const closes = [[1001, "server stopping"], [1008, "too many bad commands"], [1000, "unauthorized"], [1008, "Unauthorized"], [1000, ""]];
  for (const [code, reason] of closes) {
    const waits = changes.length + 1;
    server.socket.close(code, reason);
    await changes.count(waits);
    assert.deepEqual([changes.at(-1)[0], consumer.reason], ["waiting", reason || null]);
    clock.tick(500);
    await changes.count(waits + 2);
    assert.deepEqual([changes.at(-1)[0], consumer.reason], ["open", null]);
    await server.settled();
  }
});

// The socket's id

check("hello() tells the id of the socket, and nobody is bothered who did not ask", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  const one = recorder();
  consumer.subscribe("s", one);
  await one.log.count(1);
  await server.settled();
  assert.equal(consumer.socketId, null);
  assert.deepEqual(server.said, ["subscribe s"]);
  const asked = [consumer.hello(), consumer.hello()];
  assert.equal(consumer.socketId, null);
  assert.deepEqual(await Promise.all(asked), ["id-0", "id-0"]);
  assert.equal(consumer.socketId, "id-0");
  assert.equal(await consumer.hello(), "id-0");
  assert.deepEqual(server.said, ["subscribe s", "hello"], "asked once");
});

check("once asked for, the id is renewed with each connection, before anybody is connected", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const { consumer, reached } = consumerOf(t, server.url);
  const log = new Log();
  consumer.subscribe("s", {
    connected: () => log.push(["connected", consumer.socketId]),
    disconnected: () => log.push(["disconnected", consumer.socketId]),
  });
  const id = consumer.hello();
  assert.equal(await id, "id-0");
  await log.count(1);
  server.socket.terminate();
  await reached("waiting");
  assert.equal(consumer.socketId, null);
  const next = consumer.hello();
  clock.tick(1_000);
  assert.equal(await next, "id-1");
  await log.count(3);
  consumer.disconnect();
  consumer.connect();
  await log.count(5);
  assert.deepEqual([...log], [0, 1, 2].flatMap((n) => [["connected", `id-${n}`], ["disconnected", null]]).slice(0, 5));
  assert.deepEqual(server.said, [0, 1, 2].flatMap(() => ["hello", "subscribe s"]));
});

check("hello() connects without a subscription, and tries until it has the id, but not for longer", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  server.hello = () => null;
  const { consumer, reached } = consumerOf(t, server.url);
  const id = consumer.hello();
  await server.commands.count(1);
  server.hello = (number) => ({ type: "hello", socket: `id-${number}` });
  server.socket.terminate();
  await reached("waiting");
  clock.tick(1_000);
  assert.equal(await id, "id-1");
  assert.deepEqual(server.said, ["hello", "hello"]);
  server.socket.terminate();
  await reached("waiting", 2);
  clock.tick(30_000);
  assert.equal(consumer.state, "closed");
});

check("an answer to hello that never came is asked for again", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  server.hello = () => null;
  const { consumer } = consumerOf(t, server.url);
  const id = consumer.hello();
  await server.commands.count(1);
  server.hello = () => ({ type: "hello", socket: "late" });
  clock.tick(10_000);
  assert.equal(await id, "late");
  clock.tick(20_000);
  await server.settled();
  assert.deepEqual(server.said, ["hello", "hello"]);
});

check("disconnect() rejects what waits for an id, and the id comes with connect() all the same", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  const one = recorder();
  consumer.subscribe("s", one);
  const id = consumer.hello();
  consumer.disconnect();
  await assert.rejects(id, /no socket id.*disconnect\(\)/);
  await assert.rejects(consumer.hello(), /no socket id.*disconnect\(\)/);
  consumer.connect();
  const next = consumer.hello();
  await one.log.count(1);
  assert.equal(consumer.socketId, "id-0");
  assert.equal(await next, "id-0");
});

check("a server that knows no hello rejects it, is not asked again, and all else goes on", async (t) => {
  const clock = stopClock(t);
  const warnings = new Log();
  t.mock.method(console, "warn", (...words) => warnings.push(words.join(" ")));
  const server = await Server.start(t);
  server.hello = () => ({ type: "error", reason: "unknown type" });
  const { consumer, reached } = consumerOf(t, server.url);
  const one = recorder();
  consumer.subscribe("s", one);
  await assert.rejects(consumer.hello(), { message: "fastcable: no socket id: unknown type" });
  await one.log.count(1);
  server.socket.terminate();
  await reached("waiting");
  clock.tick(1_000);
  await one.log.count(3);
  clock.tick(20_000);
  await server.settled();
  assert.deepEqual(server.said, ["hello", "subscribe s", "subscribe s"]);
  assert.deepEqual([...warnings], ["fastcable: unknown type"]);
  server.hello = () => ({ type: "hello", socket: "updated" });
  assert.equal(await consumer.hello(), "updated");
});

check("a hello nobody waits for is no uncaught error in Node", async (t) => {
  const script = `
    import WebSocket from "ws";
    import { createConsumer } from "../../fastcable/client/fastcable.js";
    const consumer = createConsumer("ws://127.0.0.1:9/cable", { WebSocket });
    consumer.hello();
    consumer.disconnect();
    setImmediate(() => console.log("quiet"));
  `;
  const run = promisify(execFile);
  const options = { cwd: import.meta.dirname };
  const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", script], options);
  assert.equal(stdout, "quiet\n");
});
