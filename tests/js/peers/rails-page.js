// What the tests of @rails/actioncable have on their page, in Node and in a browser. `ActionCable` is there already.
globalThis.events = []; // [name, what happened, what came with it]
globalThis.subscriptions = {};
const waiting = new Set(); // what to call when something has happened

globalThis.open = (staleThreshold) => {
  ActionCable.ConnectionMonitor.staleThreshold = staleThreshold;
  globalThis.consumer = ActionCable.createConsumer(`ws://${location.host}/cable`);
};

globalThis.subscribe = (name, params) => {
  const note = (what) => (info) => {
    events.push([name, what, info ?? null]);
    for (const look of waiting) look();
  };
  const callbacks = ["connected", "disconnected", "rejected", "received"].map((what) => [what, note(what)]);
  subscriptions[name] = consumer.subscriptions.create(params, Object.fromEntries(callbacks));
};

/** Resolves as soon as the condition holds: looked at with each event, and now and then. */
globalThis.until = (condition) =>
  new Promise((resolve, reject) => {
    const look = () => {
      try {
        if (!condition()) return;
        resolve();
      } catch (error) {
        reject(error);
      }
      waiting.delete(look);
      clearInterval(timer);
    };
    const timer = setInterval(look, 5);
    waiting.add(look);
    look();
  });

/** Broadcasts; what the server answers. */
globalThis.post = async (message) => {
  const body = JSON.stringify(message);
  const answer = await fetch(new URL("/_broadcast", location), {
    method: "POST", headers: { "Content-Type": "application/json" }, body,
  });
  return await answer.json();
};

/** What came with all that happened of this kind. */
globalThis.happened = (name, what) => events.filter((event) => event[0] === name && event[1] === what).map((event) => event[2]);

/** So often: subscribes, leaves and subscribes in one burst, broadcasts, and leaves; what came of each round. */
globalThis.bursts = async (rounds, params, stream) => {
  const told = [];
  for (let number = 0; number < rounds; number++) {
    subscribe("first", params);
    subscriptions.first.unsubscribe();
    subscribe("room", params);
    // The first confirmation, that of what was left, comes too soon; the second is the last that comes. In the first
    // round, before the connection was open, there was nothing to leave.
    await until(() => happened("room", "connected").length === (number ? 2 : 1));
    const answer = await post([{ stream, data: number }, { stream, data: "end" }]);
    await until(() => happened("room", "received").includes("end"));
    told.push([answer, events.splice(0).filter(([, what]) => what !== "connected")]);
    subscriptions.room.unsubscribe();
  }
  return told;
};
