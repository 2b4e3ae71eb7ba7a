// What the tests of @rails/actioncable have on their page, in Node and in a browser. `ActionCable` is there already.
globalThis.events = []; // [name, what happened, what came with it]
globalThis.subscriptions = {};

globalThis.open = (url, staleThreshold = 6) => {
  ActionCable.ConnectionMonitor.staleThreshold = staleThreshold;
  globalThis.consumer = ActionCable.createConsumer(url);
};

globalThis.subscribe = (name, params) => {
  const note = (what) => (info) => void events.push([name, what, info ?? null]);
  const callbacks = ["connected", "disconnected", "rejected", "received"].map((what) => [what, note(what)]);
  subscriptions[name] = consumer.subscriptions.create(params, Object.fromEntries(callbacks));
};

/** Resolves as soon as the condition holds. */
globalThis.until = async (condition) => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
};

/** What came with all that happened of this kind. */
globalThis.happened = (name, what) => events.filter((event) => event[0] === name && event[1] === what).map((event) => event[2]);
