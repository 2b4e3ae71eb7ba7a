// What a consumer is told of names of all kinds, in Node and in a browser.

/**
 * Subscribes to all of them, comes back once, and resolves to what happened to each, and to the names that were asked
 * for on each connection.
 */
export async function tellOf(createConsumer, WebSocket, url, names) {
  const told = names.map(() => []);
  const asked = [];
  class Spy extends WebSocket {
    constructor(...args) {
      super(...args);
      asked.push([]);
    }
    send(text) {
      const { type, stream } = JSON.parse(text);
      if (type === "subscribe") asked.at(-1).push(stream);
      super.send(text);
    }
  }
  const consumer = createConsumer(url, { WebSocket: Spy });
  const answers = names.map(
    (name, at) =>
      new Promise((answered) => {
        const note = (what) => (info) => answered(told[at].push([what, info.reason ?? info.reconnected ?? info]));
        const callbacks = { connected: note("connected"), received: note("received"), rejected: note("rejected") };
        try {
          consumer.subscribe(name, callbacks);
        } catch (error) {
          answered(told[at].push(["thrown", String(error)]));
        }
      }),
  );
  await Promise.all(answers);
  consumer.disconnect();
  consumer.connect();
  // Commands are answered in order, and this was the last one.
  await new Promise((answered) => consumer.subscribe("end", { connected: answered, rejected: answered }));
  consumer.disconnect();
  return { told, asked };
}
