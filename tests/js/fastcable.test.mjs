import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import net from "node:net";
import { test } from "node:test";
import { promisify } from "node:util";
import WebSocket from "ws";
import { createCableSubscription, createConsumer } from "../../fastcable/client/fastcable.js";
import { Log, Server, consumerOf, recorder, stopClock } from "./support.mjs";

const check = (name, run) => test(name, { timeout: 20_000 }, run);

check("the socket opens at the first subscription, and commands keep their order", async (t) => {
  const server = await Server.start(t);
  const { consumer, changes } = consumerOf(t, server.url);
  assert.equal(consumer.state, "closed");
  const [a, b, c] = [recorder(), recorder(), recorder()];
  consumer.subscribe("a", a);
  assert.equal(consumer.state, "connecting");
  consumer.subscribe("b", b).unsubscribe();
  const first = consumer.subscribe("c", c);
  await c.log.count(1);
  first.unsubscribe();
  consumer.subscribe("b", b);
  await b.log.count(1);
  assert.deepEqual(server.said, ["subscribe a", "subscribe c", "unsubscribe c", "subscribe b"]);
  assert.deepEqual([...changes], [["connecting", null], ["open", null]]);
  assert.equal(server.sockets.length, 1);
  for (const { log } of [a, b, c]) assert.deepEqual([...log], [["connected", { reconnected: false }]]);
});

check("subscriptions to one stream share one on the wire until the last has left", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  const [one, two, late] = [recorder(), recorder(), recorder()];
  const first = consumer.subscribe("s", one);
  const second = consumer.subscribe("s", two);
  await two.log.count(1);
  const third = consumer.subscribe("s", late);
  assert.equal(late.log.length, 0, "connected() comes after subscribe() has returned");
  await late.log.count(1);
  server.publish("s", 1);
  await late.log.count(2);
  first.unsubscribe();
  first.unsubscribe();
  second.unsubscribe();
  server.publish("s", 2);
  await late.log.count(3);
  assert.deepEqual(server.said, ["subscribe s"]);
  third.unsubscribe();
  await server.settled();
  assert.deepEqual(server.said, ["subscribe s", "unsubscribe s"]);
  const connected = ["connected", { reconnected: false }];
  assert.deepEqual([...one.log], [connected, ["received", 1]]);
  assert.deepEqual([...two.log], [connected, ["received", 1]]);
  assert.deepEqual([...late.log], [connected, ["received", 1], ["received", 2]]);
});

for (const data of [0, false, "", null, "text", [1, [2]], { a: { b: "ü€😀" } }, -1.5])
  check(`received() gets the data as posted: ${JSON.stringify(data)}`, async (t) => {
    const server = await Server.start(t);
    const { log, ...callbacks } = recorder();
    consumerOf(t, server.url).consumer.subscribe("s", callbacks);
    await log.count(1);
    server.publish("s", data);
    await log.count(2);
    assert.deepEqual(log[1], ["received", data]);
  });

check("messages of other streams, and of one not yet confirmed, are not delivered", async (t) => {
  const server = await Server.start(t, { answers: () => null });
  const one = recorder();
  const { consumer } = consumerOf(t, server.url);
  consumer.subscribe("s", one);
  await server.commands.count(1);
  server.publish("s", "too early");
  server.send({ type: "subscribed", stream: "s" });
  server.publish("other", "not ours");
  server.publish("s", "now");
  await one.log.count(2);
  assert.deepEqual([...one.log], [["connected", { reconnected: false }], ["received", "now"]]);
});

check("all streams are subscribed again after a reconnect, in order", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const { consumer, reached } = consumerOf(t, server.url);
  const logs = ["a", "b"].map((stream) => {
    const { log, ...callbacks } = recorder();
    consumer.subscribe(stream, callbacks);
    return log;
  });
  await logs[1].count(1);
  server.socket.close(1001);
  await reached("waiting");
  const late = recorder();
  consumer.subscribe("c", late);
  clock.tick(1_000);
  await late.log.count(1);
  assert.deepEqual(server.said, ["a", "b", "a", "b", "c"].map((stream) => `subscribe ${stream}`));
  const again = [
    ["connected", { reconnected: false }],
    ["disconnected", { willReconnect: true }],
    ["connected", { reconnected: true }],
  ];
  for (const log of logs) assert.deepEqual([...log], again);
  assert.deepEqual([...late.log], [["connected", { reconnected: false }]]);
});

check("a server that is killed and started again on its port is found again", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const one = recorder();
  const { consumer, reached } = consumerOf(t, server.url);
  consumer.subscribe("s", one);
  await one.log.count(1);
  await server.stop();
  await reached("waiting");
  clock.tick(1_000);
  await reached("waiting", 2); // refused
  await server.listen(server.port);
  clock.tick(2_000);
  await one.log.count(3);
  server.publish("s", "back");
  await one.log.count(4);
  assert.deepEqual([...one.log.slice(1)], [
    ["disconnected", { willReconnect: true }],
    ["connected", { reconnected: true }],
    ["received", "back"],
  ]);
});

// Back-off

const unlistened = async () => {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return `ws://127.0.0.1:${port}/cable`;
};
const failures = {
  "a refused connection": unlistened,
  "a handshake refused with 403": async (t) => (await Server.start(t, { verifyClient: () => false })).url,
  "a close with 1008 right after the handshake": async (t) =>
    (await Server.start(t, { greet: (socket) => socket.close(1008) })).url,
};
for (const [name, make] of Object.entries(failures))
  for (const random of [0, 0.25, 0.999])
    check(`${name} is retried with jitter ${random} below a ceiling that doubles from 1 s to 30 s`, async (t) => {
      const url = await make(t);
      const clock = stopClock(t);
      t.mock.method(Math, "random", () => random);
      const { consumer, changes, reached } = consumerOf(t, url);
      consumer.subscribe("s");
      for (const [attempt, ceiling] of [1, 2, 4, 8, 16, 30, 30, 30].entries()) {
        await reached("waiting", attempt + 1);
        const [state, delay] = changes.at(-1);
        assert.equal(state, "waiting");
        assert.ok(Math.abs(delay - random * ceiling * 1_000) < 1e-3, `attempt ${attempt}: ${delay} of ${ceiling} s`);
        clock.tick(delay * 0.99);
        if (delay) assert.equal(consumer.state, "waiting", "not before its time");
        clock.tick(delay * 0.01 + 1e-3);
        assert.equal(consumer.state, "connecting");
      }
    });

for (const [name, frame] of Object.entries({ ping: { type: "ping" }, answer: { type: "subscribed", stream: "s" } }))
  check(`the ceiling falls back after a connection proved good by a ${name}, not by opening`, async (t) => {
    const clock = stopClock(t);
    t.mock.method(Math, "random", () => 0.5);
    const server = await Server.start(t, { answers: () => null });
    const { consumer, changes, reached } = consumerOf(t, server.url);
    consumer.subscribe("s");
    for (const [attempt, delay] of [500, 1_000, 2_000].entries()) {
      await reached("open", attempt + 1);
      await server.commands.count(attempt + 1);
      server.socket.close(1011);
      await reached("waiting", attempt + 1);
      assert.deepEqual(changes.at(-1), ["waiting", delay]);
      clock.tick(delay);
    }
    await reached("open", 4);
    await server.commands.count(4);
    server.send(frame);
    server.socket.close(1011);
    await reached("waiting", 4);
    assert.deepEqual(changes.at(-1), ["waiting", 500]);
  });

check("connect() while waiting tries at once", async (t) => {
  stopClock(t);
  const server = await Server.start(t);
  const one = recorder();
  const { consumer, reached } = consumerOf(t, server.url);
  consumer.subscribe("s", one);
  await one.log.count(1);
  server.socket.terminate();
  await reached("waiting");
  consumer.connect();
  consumer.connect();
  await one.log.count(3);
  assert.equal(server.sockets.length, 2);
});

// Dead connections

check("a ping is answered with a pong", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  consumer.subscribe("s");
  await server.commands.count(1);
  server.send({ type: "ping" });
  await server.commands.count(2);
  assert.deepEqual([...server.commands], [[0, "subscribe", "s"], [0, "pong", undefined]]);
});

check("75 s of silence are a dead connection, and any frame starts them anew", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const one = recorder();
  const { consumer, reached } = consumerOf(t, server.url);
  consumer.subscribe("s", one);
  await one.log.count(1);
  clock.tick(74_999);
  server.publish("s", 1);
  await one.log.count(2);
  clock.tick(74_999);
  assert.equal(consumer.state, "open");
  clock.tick(1);
  assert.equal(consumer.state, "waiting");
  assert.deepEqual(one.log.at(-1), ["disconnected", { willReconnect: true }]);
  clock.tick(1_000);
  await reached("open", 2);
  await one.log.count(4);
  assert.deepEqual(one.log.at(-1), ["connected", { reconnected: true }]);
});

check("silenceTimeout sets how long that is", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const one = recorder();
  const { consumer } = consumerOf(t, server.url, { silenceTimeout: 7_000 });
  consumer.subscribe("s", one);
  await one.log.count(1);
  clock.tick(6_999);
  assert.equal(consumer.state, "open");
  clock.tick(1);
  assert.equal(consumer.state, "waiting");
});

check("what a socket still says after it was given up is ignored", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const one = recorder();
  const { consumer, reached } = consumerOf(t, server.url);
  consumer.subscribe("s", one);
  await one.log.count(1);
  const old = server.socket;
  old.pause(); // the client's close is not answered
  clock.tick(75_000);
  clock.tick(1_000);
  await reached("open", 2);
  await one.log.count(3);
  old.send(JSON.stringify({ type: "message", stream: "s", data: "from the grave" }));
  old.terminate();
  await server.settled();
  server.publish("s", "alive");
  await one.log.count(4);
  assert.deepEqual(one.log.at(-1), ["received", "alive"]);
  assert.equal(consumer.state, "open");
});

check("after a suspension the server is asked before the connection is given up: it answers", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const one = recorder();
  const { consumer } = consumerOf(t, server.url);
  consumer.subscribe("s", one);
  await one.log.count(1);
  clock.suspend(3_600_000);
  clock.tick(75_000);
  assert.equal(consumer.state, "open");
  await server.settled();
  assert.deepEqual(server.said, ["subscribe s", "subscribe s"]);
  clock.tick(74_999);
  assert.equal(consumer.state, "open");
  assert.deepEqual([...one.log], [["connected", { reconnected: false }]], "connected() is not called twice");
});

check("after a suspension the server is asked before the connection is given up: it does not answer", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const one = recorder();
  const { consumer } = consumerOf(t, server.url);
  consumer.subscribe("s", one);
  await one.log.count(1);
  server.answers = () => null;
  clock.suspend(3_600_000);
  clock.tick(75_000);
  assert.equal(consumer.state, "open");
  clock.tick(9_999);
  assert.equal(consumer.state, "open");
  clock.tick(1);
  assert.equal(consumer.state, "waiting");
});

check("a handshake that is not answered is given up after 15 s", async (t) => {
  const accepted = new Log();
  const silent = net.createServer((socket) => accepted.push(socket.on("error", () => {}))).listen(0, "127.0.0.1");
  await once(silent, "listening");
  t.after(() => accepted.forEach((socket) => socket.destroy()) ?? silent.close());
  const clock = stopClock(t);
  const { consumer } = consumerOf(t, `ws://127.0.0.1:${silent.address().port}/cable`);
  consumer.subscribe("s");
  await accepted.count(1);
  clock.tick(14_999);
  assert.equal(consumer.state, "connecting");
  clock.tick(1);
  assert.equal(consumer.state, "waiting");
});

// Subscribing and leaving

check("an answer that never comes is asked for again, and connected() is called once", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t, { answers: () => null });
  const one = recorder();
  const { consumer } = consumerOf(t, server.url);
  consumer.subscribe("s", one);
  await server.commands.count(1);
  clock.tick(9_999);
  await server.settled();
  assert.deepEqual(server.said, ["subscribe s"]);
  clock.tick(1);
  await server.settled();
  assert.deepEqual(server.said, ["subscribe s", "subscribe s"]);
  server.send({ type: "subscribed", stream: "s" });
  server.send({ type: "subscribed", stream: "s" });
  await server.settled();
  clock.tick(60_000);
  await server.settled();
  assert.deepEqual(server.said, ["subscribe s", "subscribe s"]);
  assert.deepEqual([...one.log], [["connected", { reconnected: false }]]);
});

check("in a burst only the answer to the last subscribe counts", async (t) => {
  const server = await Server.start(t, { answers: () => null });
  const [one, two, other] = [recorder(), recorder(), recorder()];
  const { consumer } = consumerOf(t, server.url);
  consumer.subscribe("other", other);
  await server.commands.count(1);
  consumer.subscribe("s", one).unsubscribe();
  consumer.subscribe("s", one).unsubscribe();
  consumer.subscribe("s", two);
  await server.settled();
  assert.deepEqual(server.said.slice(1), [
    "subscribe s",
    "unsubscribe s",
    "subscribe s",
    "unsubscribe s",
    "subscribe s",
  ]);
  server.send({ type: "subscribed", stream: "s" });
  server.publish("s", "of the first subscription");
  server.send({ type: "error", stream: "s", reason: "of the second" });
  await server.settled();
  assert.equal(two.log.length, 0);
  server.send({ type: "subscribed", stream: "s" });
  server.publish("s", "of the third");
  await two.log.count(2);
  assert.deepEqual([...two.log], [["connected", { reconnected: false }], ["received", "of the third"]]);
  assert.equal(one.log.length, 0);
});

check("who unsubscribes in a callback hears no more, and who subscribes there is connected once", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  const [second, third] = [recorder(), recorder()];
  let victim;
  consumer.subscribe("s", {
    connected: () => consumer.subscribe("s", third),
    received: () => victim.unsubscribe(),
  });
  victim = consumer.subscribe("s", second);
  await third.log.count(1);
  server.publish("s", 1);
  await third.log.count(2);
  assert.deepEqual([...second.log], [["connected", { reconnected: false }]]);
  assert.deepEqual([...third.log], [["connected", { reconnected: false }], ["received", 1]]);
});

check("nothing is sent for a stream left before the socket opened, or while it is closing", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const { consumer, reached } = consumerOf(t, server.url);
  const one = recorder();
  const gone = consumer.subscribe("gone", one);
  consumer.subscribe("stays", one);
  await one.log.count(2);
  server.socket.close(1001);
  await reached("waiting");
  gone.unsubscribe();
  clock.tick(1_000);
  await reached("open", 2);
  await server.commands.count(3);
  assert.deepEqual(server.said, ["subscribe gone", "subscribe stays", "subscribe stays"]);
});

check("a lost connection that nobody subscribes over is not replaced before somebody does", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const { consumer, reached } = consumerOf(t, server.url);
  const one = recorder();
  const only = consumer.subscribe("s", one);
  await one.log.count(1);
  only.unsubscribe();
  await server.settled();
  assert.equal(consumer.state, "open");
  server.socket.terminate();
  await reached("waiting");
  clock.tick(1_000);
  assert.equal(consumer.state, "closed");
  consumer.subscribe("s", one);
  await one.log.count(2);
  assert.equal(server.sockets.length, 2);
});

check("disconnect() stays closed until connect(), and keeps the subscriptions", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const { consumer, changes } = consumerOf(t, server.url);
  const [one, two] = [recorder(), recorder()];
  consumer.subscribe("one", one);
  await one.log.count(1);
  const closed = once(server.socket, "close");
  consumer.disconnect();
  assert.equal(consumer.state, "closed");
  assert.deepEqual(one.log.at(-1), ["disconnected", { willReconnect: false }]);
  await closed;
  consumer.subscribe("two", two);
  clock.tick(3_600_000);
  assert.equal(consumer.state, "closed");
  consumer.connect();
  await two.log.count(1);
  assert.deepEqual(one.log.at(-1), ["connected", { reconnected: true }]);
  assert.deepEqual(server.said, ["subscribe one", "subscribe one", "subscribe two"]);
  assert.deepEqual(changes.map(([state]) => state), ["connecting", "open", "closed", "connecting", "open"]);
});

check("1,000 streams over one socket, and again after a reconnect", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const { consumer, reached } = consumerOf(t, server.url);
  const log = new Log();
  const streams = Array.from({ length: 1_000 }, (_, index) => `stream ${index}`);
  for (const stream of streams)
    consumer.subscribe(stream, {
      connected: ({ reconnected }) => log.push([stream, reconnected]),
      received: (data) => log.push([stream, data]),
    });
  await log.count(1_000);
  for (const stream of streams) server.publish(stream, stream.length);
  await log.count(2_000);
  server.socket.terminate();
  await reached("waiting");
  clock.tick(1_000);
  await log.count(3_000);
  const expected = [(s) => [s, false], (s) => [s, s.length], (s) => [s, true]].flatMap((make) => streams.map(make));
  assert.deepEqual([...log], expected);
  assert.deepEqual(server.said, [...streams, ...streams].map((stream) => `subscribe ${stream}`));
});

// Frames

check("an error with a stream rejects its subscriptions, for good", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  server.answers = ({ stream }) =>
    stream === "secret" ? { type: "error", reason: "not for you", stream } : { type: "subscribed", stream };
  const [one, two, open] = [recorder(), recorder(), recorder()];
  const { consumer, reached } = consumerOf(t, server.url);
  const refused = consumer.subscribe("secret", one);
  consumer.subscribe("secret", two);
  consumer.subscribe("open", open);
  await open.log.count(1);
  assert.deepEqual([...one.log], [["rejected", { reason: "not for you" }]]);
  assert.deepEqual([...two.log], [["rejected", { reason: "not for you" }]]);
  refused.unsubscribe();
  server.socket.terminate();
  await reached("waiting");
  clock.tick(1_000);
  await open.log.count(3);
  assert.deepEqual(server.said, ["subscribe secret", "subscribe open", "subscribe open"]);
  server.answers = ({ stream }) => ({ type: "subscribed", stream });
  consumer.subscribe("secret", one);
  await one.log.count(2);
});

check("an error nobody takes is a warning on the console", async (t) => {
  const warnings = new Log();
  t.mock.method(console, "warn", (...words) => warnings.push(words.join(" ")));
  const server = await Server.start(t);
  server.answers = ({ stream }) => ({ type: "error", reason: "too many subscriptions", stream });
  const { consumer } = consumerOf(t, server.url);
  consumer.subscribe("s");
  await warnings.count(1);
  server.send({ type: "error", reason: "unknown type" });
  await warnings.count(2);
  assert.deepEqual([...warnings], [
    'fastcable: subscription to "s" refused: too many subscriptions',
    "fastcable: unknown type",
  ]);
  assert.equal(consumer.state, "open");
});

check("a gap is told with the number missed, or without one", async (t) => {
  const server = await Server.start(t);
  const one = recorder();
  consumerOf(t, server.url).consumer.subscribe("s", one);
  await one.log.count(1);
  server.send({ type: "gap", stream: "s", missed: 17 });
  server.send({ type: "gap", stream: "s" });
  server.publish("s", 1);
  await one.log.count(4);
  assert.deepEqual([...one.log.slice(1)], [["gap", { missed: 17 }], ["gap", { missed: undefined }], ["received", 1]]);
});

check("frames of unknown type or shape are ignored", async (t) => {
  const server = await Server.start(t);
  const one = recorder();
  consumerOf(t, server.url).consumer.subscribe("s", one);
  await one.log.count(1);
  for (const frame of ["", "{", "null", "7", '"text"', "[]", "{}", '{"type":"presence","stream":"s"}']) server.send(frame);
  server.socket.send(Buffer.from([0xff, 0x00]), { binary: true });
  server.publish("s", 1);
  await one.log.count(2);
  assert.deepEqual(one.log[1], ["received", 1]);
});

check("a callback that throws is reported and disturbs nobody", async (t) => {
  const reported = new Log();
  globalThis.reportError = (error) => reported.push(error.message);
  t.after(() => delete globalThis.reportError);
  const clock = stopClock(t);
  const server = await Server.start(t);
  const fail = (name) => () => {
    throw new Error(name);
  };
  const changes = new Log();
  const { consumer } = consumerOf(t, server.url, {
    onstatechange: ({ state }) => changes.push(state) && fail(state)(),
  });
  const names = ["connected", "received", "gap", "disconnected"];
  consumer.subscribe("s", Object.fromEntries(names.map((name) => [name, fail(name)])));
  const one = recorder();
  consumer.subscribe("s", one);
  await one.log.count(1);
  server.publish("s", 1);
  server.send({ type: "gap", stream: "s", missed: 1 });
  await one.log.count(3);
  server.socket.terminate();
  await one.log.count(4);
  clock.tick(1_000);
  await one.log.count(5);
  consumer.disconnect();
  assert.deepEqual(one.log.map(([name]) => name), [...names, "connected", "disconnected"]);
  assert.deepEqual([...reported], ["connecting", "open", ...names.slice(0, 3), "waiting", "disconnected",
    "connecting", "open", "connected", "closed", "disconnected"]);
});

check("in Node, which has no reportError, it becomes an uncaught exception", async (t) => {
  const server = await Server.start(t);
  const script = `
    import WebSocket from "ws";
    import { createConsumer } from "../../fastcable/client/fastcable.js";
    const consumer = createConsumer(process.argv[1], { WebSocket });
    const seen = [];
    process.on("uncaughtException", (error) => seen.push(error.message));
    consumer.subscribe("s", { connected() { throw new Error("mine"); } });
    consumer.subscribe("s", { connected() { setImmediate(() => { console.log(seen.join()); consumer.disconnect(); }); } });
  `;
  const run = promisify(execFile);
  const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", script, server.url], {
    cwd: import.meta.dirname,
  });
  assert.equal(stdout, "mine\n", "and the process ends by itself after disconnect()");
});

// Names, addresses, one-liners

const names = {
  "empty": ["", false],
  "a number": [7, false],
  "undefined": [undefined, false],
  "with a line feed": ["a\nb", false],
  "with DEL": ["a\x7f", false],
  "with half a surrogate pair": ["a\ud83d", false],
  "255 bytes": ["x".repeat(255), true],
  "256 bytes": ["x".repeat(256), true],
  "4095 bytes": ["x".repeat(4095), true],
  "4096 bytes": ["x".repeat(4096), true],
  "4097 bytes": ["x".repeat(4097), false],
  "4096 bytes in 2048 characters": ["é".repeat(2048), true],
  "4098 bytes in 2049 characters": ["é".repeat(2049), false],
  "one space": [" ", true],
};
for (const [name, [stream, good]] of Object.entries(names))
  check(`a stream name that is ${name} is ${good ? "taken" : "refused"}`, async (t) => {
    const server = await Server.start(t);
    const { consumer } = consumerOf(t, server.url);
    if (!good) {
      assert.throws(() => consumer.subscribe(stream), { name: "TypeError", message: /stream name/ });
      assert.equal(consumer.state, "closed");
      return;
    }
    const one = recorder();
    consumer.subscribe(stream, one);
    await one.log.count(1);
    assert.deepEqual([...server.commands], [[0, "subscribe", stream]]);
  });

const addresses = [
  ["http://example.com:3000/page?q#part", undefined, "ws://example.com:3000/cable"],
  ["https://example.com/deep/page", undefined, "wss://example.com/cable"],
  ["https://example.com/deep/page", "live", "wss://example.com/deep/live"],
  ["https://example.com/", "//other.example/cable", "wss://other.example/cable"],
  ["https://example.com/", "wss://ws.example.com/cable?token=1#part", "wss://ws.example.com/cable?token=1"],
  [undefined, "http://localhost:3000/cable", "ws://localhost:3000/cable"],
];
for (const [page, url, expected] of addresses)
  check(`on ${page}, createConsumer(${url ?? ""}) connects to ${expected}`, (t) => {
    if (page) globalThis.location = new URL(page);
    t.after(() => delete globalThis.location);
    assert.equal(createConsumer(url, { WebSocket }).url, expected);
  });

check("outside a page the default address is an error", () => {
  assert.throws(() => createConsumer(undefined, { WebSocket }), { name: "TypeError" });
});

check("without a WebSocket the error says what to pass", (t) => {
  const { WebSocket: theirs } = globalThis;
  globalThis.WebSocket = undefined;
  t.after(() => (globalThis.WebSocket = theirs));
  assert.throws(() => createConsumer("ws://localhost/cable"), { name: "TypeError", message: /pass one/ });
});

check("a constructor that throws is reported and tried again", async (t) => {
  const clock = stopClock(t);
  const reported = new Log();
  globalThis.reportError = (error) => reported.push(error.message);
  t.after(() => delete globalThis.reportError);
  const server = await Server.start(t);
  let insecure = true;
  class Picky extends WebSocket {
    constructor(url) {
      if (insecure) throw new Error("mixed content");
      super(url);
    }
  }
  const one = recorder();
  const { consumer } = consumerOf(t, server.url, { WebSocket: Picky });
  consumer.subscribe("s", one);
  assert.equal(consumer.state, "waiting");
  insecure = false;
  clock.tick(1_000);
  await one.log.count(1);
  assert.deepEqual([...reported], ["mixed content"]);
});

check("createCableSubscription() shares one consumer among all calls with the same address", async (t) => {
  const [here, there] = [await Server.start(t), await Server.start(t)];
  const one = recorder();
  const options = (server) => ({ url: server.url, WebSocket });
  const left = [createCableSubscription("a", one, options(here)), createCableSubscription("b", one, options(here))];
  left.push(createCableSubscription("c", one, options(there)));
  await one.log.count(3);
  assert.equal(here.sockets.length, 1);
  assert.equal(there.sockets.length, 1);
  assert.deepEqual(here.said, ["subscribe a", "subscribe b"]);
  for (const subscription of left) subscription.unsubscribe();
  await Promise.all([here.settled(), there.settled()]);
});
