// What a subscription may ask for: several streams, an end by AbortSignal, to know what it missed, the last message.
import assert from "node:assert/strict";
import { getEventListeners, once } from "node:events";
import { test } from "node:test";
import WebSocket from "ws";
import { createCableSubscription, sharedConsumer } from "../../fastcable/client/fastcable.js";
import { Log, Server, chronicle, consumerOf, recorder, stopClock } from "./support.mjs";

const check = (name, run) => test(name, { timeout: 20_000 }, run);
const first = { reconnected: false };
const again = { reconnected: true };

// Several streams

check("several streams share callbacks that are told which one, and end together", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const { consumer, reached } = consumerOf(t, server.url);
  const { log, ...callbacks } = chronicle();
  const subscription = consumer.subscribe(["a", "b", "a"], callbacks);
  assert.deepEqual(subscription.streams, ["a", "b"]);
  assert.equal("stream" in subscription, false);
  await log.count(2);
  server.publish("b", 1);
  server.publish("a", [2]);
  server.send({ type: "gap", stream: "b", missed: 3 });
  server.publish("other", 4);
  await log.count(6);
  server.socket.close(1001);
  await reached("waiting");
  clock.tick(1_000);
  await log.count(12);
  subscription.unsubscribe();
  subscription.unsubscribe();
  await server.settled();
  const both = (name, info) => ["a", "b"].map((stream) => [name, stream, info]);
  assert.deepEqual([...log], [
    ...both("connected", first),
    ["received", "b", 1],
    ["received", "a", [2]],
    ["gap", "b", { missed: 3 }],
    ["missed", "b", { reason: "gap", count: 3 }],
    ...both("disconnected", { willReconnect: true }),
    ...["a", "b"].flatMap((s) => [["connected", s, again], ["missed", s, { reason: "reconnect" }]]),
  ]);
  const said = ["subscribe", "subscribe", "unsubscribe"].flatMap((type) => [`${type} a`, `${type} b`]);
  assert.deepEqual(server.said, said);
});

check("one of several that is refused does not take the others along", async (t) => {
  const server = await Server.start(t);
  server.answers = ({ stream }) =>
    stream === "b" ? { type: "error", stream, reason: "not for you" } : { type: "subscribed", stream };
  const { consumer } = consumerOf(t, server.url);
  const { log, ...callbacks } = chronicle();
  const subscription = consumer.subscribe(["a", "b", "c"], callbacks);
  await log.count(3);
  server.publish("c", 1);
  await log.count(4);
  subscription.unsubscribe();
  await server.settled();
  assert.deepEqual([...log], [
    ["connected", "a", first],
    ["rejected", "b", { reason: "not for you" }],
    ["connected", "c", first],
    ["received", "c", 1],
  ]);
  assert.deepEqual(server.said.slice(3), ["unsubscribe a", "unsubscribe c"]);
});

check("several streams with one bad name among them are not subscribed to", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  for (const bad of [["a", ""], ["a", 7], [["a"]], [undefined]])
    assert.throws(() => consumer.subscribe(bad), { name: "TypeError", message: /stream name/ });
  assert.equal(consumer.state, "closed");
});

check("no streams are none", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  const { signal } = new AbortController();
  const subscription = consumer.subscribe([], recorder(), { signal });
  assert.deepEqual(subscription.streams, []);
  subscription.unsubscribe();
  assert.equal(consumer.state, "closed");
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

check("a stream is told in the one-stream form, too, and named by the subscription", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  const { log, ...callbacks } = chronicle();
  const subscription = consumer.subscribe("s", callbacks);
  assert.equal(subscription.stream, "s");
  assert.deepEqual(subscription.streams, ["s"]);
  await log.count(1);
  server.publish("s", null);
  await log.count(2);
  assert.deepEqual([...log], [["connected", "s", first], ["received", "s", null]]);
});

// AbortSignal

check("a signal ends the subscription to all its streams, and nothing more is called", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  const { log, ...callbacks } = chronicle();
  const controller = new AbortController();
  consumer.subscribe(["a", "b"], callbacks, { signal: controller.signal });
  await log.count(2);
  assert.equal(getEventListeners(controller.signal, "abort").length, 1);
  controller.abort();
  server.publish("a", "too late");
  await server.settled();
  assert.deepEqual(server.said.slice(2), ["unsubscribe a", "unsubscribe b"]);
  assert.equal(log.length, 2);
  assert.equal(getEventListeners(controller.signal, "abort").length, 0);
});

check("an aborted signal subscribes to nothing, but a bad name is still an error", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  const signal = AbortSignal.abort();
  const one = recorder();
  consumer.subscribe("s", one, { signal }).unsubscribe();
  consumer.subscribe(["a", "b"], one, { signal });
  assert.equal(consumer.state, "closed");
  assert.throws(() => consumer.subscribe("", one, { signal }), { name: "TypeError" });
  consumer.subscribe("other", one);
  await one.log.count(1);
  assert.deepEqual(server.said, ["subscribe other"]);
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

const ends = {
  "unsubscribe()": (subscription) => subscription.unsubscribe(),
  "the abort": (subscription, controller) => controller.abort(),
};
for (const [name, end] of Object.entries(ends))
  check(`a signal is not listened to any more after ${name}`, async (t) => {
    const server = await Server.start(t);
    const { consumer } = consumerOf(t, server.url);
    const controller = new AbortController();
    const kept = recorder();
    consumer.subscribe("s", kept);
    await kept.log.count(1);
    const gone = Array.from({ length: 100 }, () => consumer.subscribe("s", {}, { signal: controller.signal }));
    assert.equal(getEventListeners(controller.signal, "abort").length, 100);
    for (const subscription of gone) end(subscription, controller);
    assert.equal(getEventListeners(controller.signal, "abort").length, 0);
    controller.abort();
    server.publish("s", 1);
    await kept.log.count(2);
    assert.deepEqual(server.said, ["subscribe s"]);
  });

check("a signal is not listened to any more after all streams were refused", async (t) => {
  const server = await Server.start(t);
  server.answers = ({ stream }) => ({ type: "error", stream, reason: "no" });
  const { consumer } = consumerOf(t, server.url);
  const { signal } = new AbortController();
  const listeners = new Log();
  const rejected = () => listeners.push(getEventListeners(signal, "abort").length);
  consumer.subscribe(["a", "b"], { rejected }, { signal });
  await listeners.count(2);
  assert.deepEqual([...listeners], [1, 0]);
});

check("a signal aborted between subscribing and connected() is in time", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  const [kept, late] = [recorder(), recorder()];
  consumer.subscribe("s", kept);
  await kept.log.count(1);
  const controller = new AbortController();
  consumer.subscribe("s", late, { signal: controller.signal });
  controller.abort();
  await server.settled();
  assert.equal(late.log.length, 0);
});

// missed

check("missed() comes after connected() and before the first message, but not the first time", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  server.retained.set("s", "current");
  const { consumer, reached } = consumerOf(t, server.url);
  const { log, ...callbacks } = chronicle();
  consumer.subscribe("s", callbacks);
  await log.count(2);
  server.socket.terminate();
  await reached("waiting");
  const late = chronicle();
  consumer.subscribe("s", late);
  clock.tick(1_000);
  await log.count(6);
  assert.deepEqual([...log], [
    ["connected", "s", first],
    ["received", "s", "current"],
    ["disconnected", "s", { willReconnect: true }],
    ["connected", "s", again],
    ["missed", "s", { reason: "reconnect" }],
    ["received", "s", "current"],
  ]);
  assert.deepEqual([...late.log], [["connected", "s", first], ["received", "s", "current"]]);
});

check("missed() is told of a gap whose size is not known", async (t) => {
  const server = await Server.start(t);
  const { log, ...callbacks } = chronicle();
  consumerOf(t, server.url).consumer.subscribe("s", callbacks);
  await log.count(1);
  server.send({ type: "gap", stream: "s" });
  await log.count(3);
  assert.deepEqual([...log.slice(1)], [
    ["gap", "s", { missed: undefined }],
    ["missed", "s", { reason: "gap", count: undefined }],
  ]);
});

check("who unsubscribes, or disconnects, in connected() is not told what was missed", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const { consumer, reached } = consumerOf(t, server.url);
  const [leaver, stopper] = [chronicle(), chronicle()];
  const leaving = consumer.subscribe("s", {
    ...leaver,
    connected: (info) => leaver.connected(info) && info.reconnected && leaving.unsubscribe(),
  });
  consumer.subscribe("s", {
    ...stopper,
    connected: (info) => stopper.connected(info) && info.reconnected && consumer.disconnect(),
  });
  await stopper.log.count(1);
  server.socket.terminate();
  await reached("waiting");
  clock.tick(1_000);
  await stopper.log.count(4);
  const heard = [["connected", "s", first], ["disconnected", "s", { willReconnect: true }], ["connected", "s", again]];
  assert.deepEqual([...leaver.log], heard);
  assert.deepEqual([...stopper.log], [...heard, ["disconnected", "s", { willReconnect: false }]]);
});

// Retained values

check("a late subscriber gets the last message if it asks for it, and nobody gets it twice", async (t) => {
  const server = await Server.start(t);
  server.retained.set("s", 1);
  const { consumer } = consumerOf(t, server.url);
  const [early, plain, asking, later] = [chronicle(), chronicle(), chronicle(), chronicle()];
  consumer.subscribe("s", early, { retained: true });
  await early.log.count(2);
  consumer.subscribe("s", plain);
  consumer.subscribe("s", asking, { retained: true });
  await asking.log.count(2);
  server.publish("s", 2);
  await asking.log.count(3);
  consumer.subscribe(["s", "t"], later, { retained: true });
  await later.log.count(3);
  const [connected, one, two] = [["connected", "s", first], ["received", "s", 1], ["received", "s", 2]];
  assert.deepEqual([...early.log], [connected, one, two]);
  assert.deepEqual([...plain.log], [connected, two]);
  assert.deepEqual([...asking.log], [connected, one, two]);
  assert.deepEqual([...later.log], [connected, two, ["connected", "t", first]]);
  assert.deepEqual(server.said, ["subscribe s", "subscribe t"]);
});

check("the last message is given as it was posted, whatever others did to their data", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  const [early, late] = [recorder(), recorder()];
  consumer.subscribe("s", { ...early, received: (data) => early.received((data.heat = "spoilt")) });
  await early.log.count(1);
  server.publish("s", { heat: 4 });
  await early.log.count(2);
  consumer.subscribe("s", late, { retained: true });
  await late.log.count(2);
  assert.deepEqual(late.log[1], ["received", { heat: 4 }]);
});

check("who subscribes while a message is being told gets it once if it asks for the last one, else not", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  const [asking, plain] = [chronicle(), chronicle()];
  const joining = recorder();
  consumer.subscribe("s", {
    ...joining,
    received(data) {
      if (data !== 1) return;
      consumer.subscribe("s", asking, { retained: true });
      consumer.subscribe("s", plain);
    },
  });
  await joining.log.count(1);
  server.publish("s", 1);
  await plain.log.count(1);
  server.publish("s", 2);
  await plain.log.count(2);
  assert.deepEqual([...asking.log], [["connected", "s", first], ["received", "s", 1], ["received", "s", 2]]);
  assert.deepEqual([...plain.log], [["connected", "s", first], ["received", "s", 2]]);
});

const outdated = {
  "there was none": () => {},
  "it was null, by which the server forgets the value": (server) => server.publish("s", null),
  "messages were dropped since"(server) {
    server.publish("s", 1);
    server.send({ type: "gap", stream: "s", missed: 1 });
  },
};
for (const [name, act] of Object.entries(outdated))
  check(`a late subscriber that asks for the last message gets none when ${name}`, async (t) => {
    const server = await Server.start(t);
    const { consumer } = consumerOf(t, server.url);
    const [kept, late] = [recorder(), chronicle()];
    consumer.subscribe("s", kept);
    await kept.log.count(1);
    act(server);
    await server.settled();
    consumer.subscribe("s", late, { retained: true });
    await late.log.count(1);
    server.publish("s", "next");
    await late.log.count(2);
    assert.deepEqual([...late.log], [["connected", "s", first], ["received", "s", "next"]]);
  });

check("who disconnects in connected() does not get the last message after disconnected()", async (t) => {
  const server = await Server.start(t);
  const { consumer } = consumerOf(t, server.url);
  const [kept, late] = [recorder(), chronicle()];
  consumer.subscribe("s", kept);
  await kept.log.count(1);
  server.publish("s", 1);
  await kept.log.count(2);
  const connected = (info) => late.connected(info) && consumer.disconnect();
  consumer.subscribe("s", { ...late, connected }, { retained: true });
  await late.log.count(2);
  await kept.log.count(3);
  assert.deepEqual([...late.log], [["connected", "s", first], ["disconnected", "s", { willReconnect: false }]]);
});

check("the last message of the connection before is forgotten", async (t) => {
  const clock = stopClock(t);
  const server = await Server.start(t);
  const { consumer, reached } = consumerOf(t, server.url);
  const [kept, late] = [recorder(), chronicle()];
  consumer.subscribe("s", kept);
  await kept.log.count(1);
  server.publish("s", "old");
  await kept.log.count(2);
  server.socket.terminate();
  await reached("waiting");
  clock.tick(1_000);
  await kept.log.count(4);
  consumer.subscribe("s", late, { retained: true });
  await late.log.count(1);
  server.publish("s", "new");
  await late.log.count(2);
  assert.deepEqual([...late.log], [["connected", "s", first], ["received", "s", "new"]]);
});

check("in a burst of subscribe and unsubscribe, the retained value comes once", async (t) => {
  const server = await Server.start(t);
  server.retained.set("s", 1);
  const { consumer } = consumerOf(t, server.url);
  const [other, one] = [recorder(), chronicle()];
  consumer.subscribe("other", other);
  await other.log.count(1);
  consumer.subscribe("s", one, { retained: true }).unsubscribe();
  consumer.subscribe("s", one, { retained: true });
  await one.log.count(2);
  await server.settled();
  assert.deepEqual([...one.log], [["connected", "s", first], ["received", "s", 1]]);
});

// The shared consumer

check("sharedConsumer() is that of createCableSubscription(), which takes the same options", async (t) => {
  const server = await Server.start(t);
  const { log, ...callbacks } = chronicle();
  const controller = new AbortController();
  const { signal } = controller;
  createCableSubscription(["a", "b"], callbacks, { url: server.url, WebSocket, signal });
  const consumer = sharedConsumer(server.url);
  t.after(() => consumer.disconnect());
  assert.equal(sharedConsumer(new URL(server.url)), consumer);
  await log.count(2);
  server.publish("a", 1);
  await log.count(3);
  const late = chronicle();
  createCableSubscription("a", late, { url: server.url, retained: true });
  await late.log.count(2);
  assert.equal(server.sockets.length, 1);
  controller.abort();
  const closed = once(server.socket, "close");
  consumer.disconnect();
  await closed;
  assert.deepEqual(server.said, ["subscribe a", "subscribe b", "unsubscribe b"]);
});
