// The parts of the showcase's pages that need no browser: when to fetch, and how to join what came twice.
import assert from "node:assert/strict";
import { test } from "node:test";

import { CatchUp } from "../../examples/showcase/static/catch_up.js";
import { Refresher } from "../../examples/showcase/static/refresher.js";
import { Splice } from "../../examples/showcase/static/splice.js";

const settled = () => new Promise((resolve) => setImmediate(resolve));

/** A board on a clock of its own: `fetches` are the times, `answer()` lets the one under way end. */
function board(t, { random = () => 0.5, shown = 1, ...options } = {}) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const fetches = [];
  let end;
  const fetch = () => {
    fetches.push(Date.now());
    return new Promise((resolve) => (end = resolve));
  };
  const refresher = new Refresher({ shown, delay: 300, spread: 700, random, fetch, ...options });
  const answer = (version) => {
    end(version);
    return settled();
  };
  const pass = (ms) => {
    for (let i = 0; i < ms; i++) t.mock.timers.tick(1); // one by one: within a tick, it is its end already
  };
  return { refresher, fetches, answer, pass };
}

test("a signal of what is shown already fetches nothing", (t) => {
  const { refresher, fetches, pass } = board(t, { shown: 7 });
  refresher.signal(6);
  refresher.signal(7);
  pass(60_000);
  assert.deepEqual(fetches, []);
});

for (const [name, random, first] of [["least", () => 0, 300], ["most", () => 1, 1_000]])
  test(`a board waits for the delay and a part of the spread, at ${name} ${first} ms`, (t) => {
    const { refresher, fetches, pass } = board(t, { random });
    refresher.signal(2);
    pass(first - 1);
    assert.deepEqual(fetches, []);
    pass(1);
    assert.deepEqual(fetches, [first]);
  });

test("one fetch covers all signals until it begins, and is not put off by them", async (t) => {
  const { refresher, fetches, answer, pass } = board(t);
  for (let version = 2; version <= 65; version++) {
    refresher.signal(version);
    pass(10);
  }
  pass(20);
  assert.deepEqual(fetches, [650]);
  await answer(65);
  pass(60_000);
  assert.deepEqual(fetches, [650]);
});

test("what is signalled during a fetch is fetched after it, unless the answer was new enough", async (t) => {
  const { refresher, fetches, answer, pass } = board(t);
  refresher.signal(2);
  pass(650);
  refresher.signal(3);
  refresher.signal(4);
  await answer(3);
  pass(650);
  assert.equal(fetches.length, 2);
  refresher.signal(5);
  await answer(5);
  pass(60_000);
  assert.equal(fetches.length, 2);
});

test("a thousand boards do not fetch in the same moment", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const at = new Map();
  const fetch = () => {
    at.set(Date.now(), (at.get(Date.now()) ?? 0) + 1);
    return new Promise(() => {});
  };
  let seed = 1;
  const random = () => (seed = (seed * 16_807) % 2_147_483_647) / 2_147_483_647;
  for (let i = 0; i < 1_000; i++) new Refresher({ fetch, random }).signal(1);
  for (let ms = 0; ms < 1_000; ms++) t.mock.timers.tick(1);
  assert.equal([...at.values()].reduce((a, b) => a + b), 1_000);
  assert.ok(Math.max(...at.values()) < 15);
});

test("a fetch that failed is tried again, ever more slowly, until one succeeds", async (t) => {
  const { refresher, fetches, answer, pass } = board(t);
  refresher.signal(2);
  const waits = [650, 1_300, 2_600, 5_200, 10_400, 20_800, 30_000, 30_000];
  for (const wait of waits) {
    pass(wait);
    await answer(undefined);
  }
  let sum = 0;
  assert.deepEqual(fetches, waits.map((wait) => (sum += wait)));
  pass(30_000);
  await answer(2);
  refresher.signal(3);
  pass(650);
  assert.equal(fetches.length, waits.length + 2);
});

test("a doubt fetches though no signal came, also one that comes during a fetch", async (t) => {
  const { refresher, fetches, answer, pass } = board(t, { shown: 9 });
  refresher.doubt();
  pass(650);
  refresher.doubt();
  await answer(9);
  pass(650);
  await answer(9);
  pass(60_000);
  assert.equal(fetches.length, 2);
});

const bytes = (text) => new TextEncoder().encode(text);

/** A splice, and what it has written. */
function written() {
  let text = "";
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const splice = new Splice((piece) => (text += decoder.decode(piece, { stream: true })));
  return { splice, text: () => text };
}

for (const [name, pieces, taken, text] of [
  ["in order", [[0, "one "], [4, "two"]], [true, true], "one two"],
  ["twice", [[0, "one "], [0, "one "], [4, "two"], [0, "one "]], [true, true, true, true], "one two"],
  ["overlapping", [[0, "one t"], [2, "e two"], [0, "one two!"]], [true, true, true], "one two!"],
  ["with a hole", [[0, "one "], [5, "wo"], [4, "two"]], [true, false, true], "one two"],
  ["from nowhere", [[1, "ne"]], [false], ""],
  ["empty", [[0, ""], [0, "a"], [1, ""], [2, ""]], [true, true, true, false], "a"],
  ["of more than a byte to a character", [[0, "é"], [0, "é𝄞"], [2, "𝄞♫"], [6, "♫!"]], [true, true, true, true], "é𝄞♫!"],
])
  test(`pieces ${name} are joined`, () => {
    const { splice, text: all } = written();
    assert.deepEqual(pieces.map(([position, piece]) => splice.take(position, bytes(piece))), taken);
    assert.equal(all(), text);
    assert.equal(splice.position, bytes(text).length);
  });

test("pieces cut in the middle of characters are joined", () => {
  const whole = bytes("Élégant 𝄞 ♫");
  for (let cut = 0; cut <= whole.length; cut++) {
    const { splice, text } = written();
    assert.ok(splice.take(0, whole.subarray(0, cut)));
    assert.ok(splice.take(Math.max(0, cut - 3), whole.subarray(Math.max(0, cut - 3))));
    assert.equal(text(), "Élégant 𝄞 ♫");
  }
});

/** A page that catches up: `shown` is what it shows, `answer(piece)` lets the fetch under way end. */
function page({ apply = () => true } = {}) {
  const shown = [];
  const fetches = [];
  const catchUp = new CatchUp({
    fetch: () => new Promise((resolve) => fetches.push(resolve)),
    apply: (message) => apply(message) && (shown.push(message), true),
  });
  const answer = (ok = true) => {
    if (ok) shown.push("fetched");
    fetches.at(-1)(ok);
    return settled();
  };
  return { catchUp, shown, fetches, answer };
}

test("messages that come during a fetch are applied to what it brought", async () => {
  const { catchUp, shown, answer } = page();
  catchUp.start();
  catchUp.receive(1);
  catchUp.receive(2);
  assert.deepEqual(shown, []);
  await answer();
  catchUp.receive(3);
  assert.deepEqual(shown, ["fetched", 1, 2, 3]);
});

test("a start during a fetch fetches once more, however many there were", async () => {
  const { catchUp, shown, fetches, answer } = page();
  catchUp.start();
  catchUp.start();
  catchUp.start();
  await answer();
  catchUp.receive(1);
  await answer();
  assert.equal(fetches.length, 2);
  assert.deepEqual(shown, ["fetched", "fetched", 1]);
});

test("a message with something missing before it fetches", async () => {
  const { catchUp, shown, fetches, answer } = page({ apply: (message) => message !== 5 });
  catchUp.receive(1);
  catchUp.receive(5);
  catchUp.receive(6);
  assert.equal(fetches.length, 1);
  await answer();
  assert.deepEqual(shown, [1, "fetched", 6]);
});

test("a fetch that failed is made again, and messages go on waiting", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { catchUp, shown, fetches, answer } = page();
  catchUp.start();
  catchUp.receive(1);
  await answer(false);
  t.mock.timers.tick(999);
  await settled();
  assert.equal(fetches.length, 1);
  t.mock.timers.tick(1_001);
  await settled();
  assert.equal(fetches.length, 2);
  await answer();
  assert.deepEqual(shown, ["fetched", 1]);
});
