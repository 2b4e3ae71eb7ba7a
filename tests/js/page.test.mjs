// What the consumer does when the page is hidden, shown, put away, or on and off the network. The events are real ones of
// an EventTarget put in the place of a window; the same is seen in a browser by tests/test_demo.py.
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import WebSocket from "ws";
import { createConsumer } from "../../fastcable/client/fastcable.js";
import { Log, Server, recorder, stopClock } from "./support.mjs";

const check = (name, run) => test(name, { timeout: 20_000 }, run);

/** A consumer with one confirmed subscription, in a page. */
async function subscribed(t) {
  const window = new EventTarget();
  const document = Object.assign(new EventTarget(), { hidden: false });
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.document = document;
  const clock = stopClock(t);
  t.mock.method(Math, "random", () => 0.9);
  const server = await Server.start(t);
  const { log, ...callbacks } = recorder();
  const changes = new Log();
  const onstatechange = ({ state, retryAt }) => changes.push([state, retryAt && retryAt - Date.now()]);
  const consumer = createConsumer(server.url, { WebSocket, onstatechange });
  t.after(() => {
    consumer.disconnect();
    delete globalThis.addEventListener;
    delete globalThis.document;
  });
  consumer.subscribe("s", callbacks);
  await log.count(1);
  return {
    clock,
    server,
    consumer,
    changes,
    log,
    say: (type, detail) => window.dispatchEvent(Object.assign(new Event(type), detail)),
    show(visible) {
      document.hidden = !visible;
      document.dispatchEvent(new Event("visibilitychange"));
    },
  };
}

/** Lets the server go away, and the attempts fail until the next one is far off. */
async function waiting(page) {
  await page.server.stop();
  await page.changes.until((log) => log.at(-1)[0] === "waiting");
  for (const delay of [900, 1_800, 3_600, 7_200]) {
    assert.equal(page.changes.at(-1)[1], delay);
    page.changes.length = 0;
    page.clock.tick(delay);
    await page.changes.until((log) => log.at(-1)?.[0] === "waiting");
  }
}

const signs = {
  "the network is back": (page) => page.say("online"),
  "the tab is shown": (page) => page.show(true),
};
for (const [name, give] of Object.entries(signs)) {
  check(`when ${name}, a waiting consumer tries at once, but not more than once a second`, async (t) => {
    const page = await subscribed(t);
    await waiting(page);
    assert.equal(page.changes.at(-1)[1], 14_400);
    page.changes.length = 0;
    give(page);
    give(page);
    assert.deepEqual([...page.changes], [["waiting", 1_000]], "the last attempt was made just now");
    page.changes.length = 0;
    page.clock.tick(1_000);
    await page.changes.count(2);
    assert.deepEqual([...page.changes], [["connecting", null], ["waiting", 27_000]], "and the ceiling keeps rising");
    page.clock.tick(5_000);
    page.changes.length = 0;
    await page.server.listen(page.server.port);
    give(page);
    page.clock.tick(0);
    await page.log.count(3);
    assert.deepEqual(page.log.at(-1), ["connected", { reconnected: true }]);
  });

  check(`when ${name}, an open connection is asked whether it lives: it does`, async (t) => {
    const page = await subscribed(t);
    give(page);
    give(page);
    await page.server.settled();
    assert.deepEqual(page.server.said, ["subscribe s", "subscribe s"], "asked once");
    page.clock.tick(74_999);
    assert.equal(page.consumer.state, "open");
    assert.equal(page.log.length, 1);
  });

  check(`when ${name}, an open connection is asked whether it lives: it does not`, async (t) => {
    const page = await subscribed(t);
    page.server.answers = () => null;
    give(page);
    page.clock.tick(9_999);
    assert.equal(page.consumer.state, "open");
    page.clock.tick(1);
    assert.equal(page.consumer.state, "waiting");
  });
}

check("hiding the tab changes nothing", async (t) => {
  const page = await subscribed(t);
  page.show(false);
  await page.server.settled();
  assert.deepEqual(page.server.said, ["subscribe s"]);
});

check("a page put away closes its socket, waits without a timer, and is back when shown again", async (t) => {
  const page = await subscribed(t);
  const closed = once(page.server.socket, "close");
  page.say("pagehide", { persisted: true });
  assert.deepEqual(page.changes.at(-1), ["waiting", null]);
  assert.deepEqual(page.log.at(-1), ["disconnected", { willReconnect: true }]);
  await closed;
  page.clock.tick(3_600_000);
  assert.equal(page.server.sockets.length, 1);
  page.say("pageshow", { persisted: true });
  page.show(true);
  await page.log.count(3);
  assert.deepEqual(page.log.at(-1), ["connected", { reconnected: true }]);
  assert.equal(page.server.sockets.length, 2);
});

check("the pageshow of the first load is no sign of anything", async (t) => {
  const page = await subscribed(t);
  page.say("pageshow", { persisted: false });
  await page.server.settled();
  assert.deepEqual(page.server.said, ["subscribe s"]);
});

check("after disconnect() the page's events are not listened to, after connect() they are", async (t) => {
  const page = await subscribed(t);
  page.consumer.disconnect();
  for (const give of Object.values(signs)) give(page);
  page.say("pagehide");
  page.say("pageshow", { persisted: true });
  assert.equal(page.consumer.state, "closed");
  page.consumer.connect();
  await page.log.count(3);
  page.say("pagehide");
  assert.equal(page.consumer.state, "waiting");
});
