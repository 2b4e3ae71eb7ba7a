// Compiled, never run: fastcable.d.ts must accept these uses and refuse the marked ones.
import { createCableSubscription, createConsumer, sharedConsumer } from "../../fastcable/client/fastcable.js";
import type {
  Callbacks,
  Consumer,
  State,
  StateChange,
  StateChangeEvent,
  Subscription,
  Subscriptions,
} from "../../fastcable/client/fastcable.js";

interface Score {
  home: number;
  away: number;
}

const consumer: Consumer = createConsumer();
createConsumer("/cable");
createConsumer(new URL("wss://example.com/cable"), { WebSocket, silenceTimeout: 75_000 });
createConsumer("ws://localhost:3000/cable", { onstatechange: ({ state, retryAt }: StateChange) => [state, retryAt] });

const callbacks: Callbacks<Score> = {
  connected({ reconnected }) {
    const flag: boolean = reconnected;
    return void flag;
  },
  received(score, { stream }) {
    const sum: number = score.home + score.away + stream.length;
    return void sum;
  },
  disconnected: ({ willReconnect }) => void willReconnect,
  gap: ({ missed }) => void (missed === undefined || missed + 1),
  missed: ({ stream, reason, count }) => void (reason === "gap" ? (count ?? 0) + 1 : stream.length),
  rejected: ({ stream, reason }) => void (stream.length + reason.length),
};
const scores: Subscription = consumer.subscribe("scores", callbacks);
consumer.subscribe<Score>("scores", { received: (score) => score.home.toFixed() });
consumer.subscribe("anything", { received: (data) => data.whatever });
consumer.subscribe("silent");
createCableSubscription<Score>("scores", callbacks, { url: "/elsewhere" });

const state: State = consumer.state;
const due: number | null = consumer.retryAt;
consumer.onstatechange = (change) => [change.state === state, change.retryAt === due, consumer.url.length];
consumer.disconnect();
consumer.connect();
consumer.connect(new URL("wss://example.com/cable?jid=token"));
const reason: string | null = consumer.reason;
consumer.addEventListener("statechange", (event) => event.reason === reason && consumer.connect("/cable?jid=token"));
scores.unsubscribe();
scores.stream.length;

const names: readonly string[] = ["scores", "heat"];
const both: Subscriptions = consumer.subscribe<Score>(names, callbacks, { retained: true });
both.streams.map((stream) => stream.length);
consumer.subscribe("scores", {}, { signal: AbortSignal.timeout(1_000) });
createCableSubscription(["scores", "heat"], callbacks, { signal: new AbortController().signal, WebSocket });
sharedConsumer().addEventListener("statechange", ({ state, retryAt, type }) => [state, retryAt, type.length]);
const listener = { handleEvent: (event: StateChangeEvent) => void event.preventDefault() };
consumer.addEventListener("statechange", listener, { once: true });
consumer.removeEventListener("statechange", listener);
const id: Promise<string> = consumer.hello();
const known: string | null = consumer.socketId;
id.then((text) => text === known);

// @ts-expect-error a stream is named by a string
consumer.subscribe(7);
// @ts-expect-error no such callback
consumer.subscribe("scores", { recieved() {} });
// @ts-expect-error the data has no such property
consumer.subscribe<Score>("scores", { received: (score) => score.draw });
// @ts-expect-error the state is read-only
consumer.state = "open";
// @ts-expect-error no such state
if (consumer.state === "connected") consumer.connect();
// @ts-expect-error no such option
createConsumer("/cable", { timeout: 1 });
// @ts-expect-error several streams have no one name
both.stream.length;
// @ts-expect-error no such reason
consumer.subscribe("scores", { missed: ({ reason }) => reason === "sleep" });
// @ts-expect-error no such option
consumer.subscribe("scores", {}, { replay: true });
// @ts-expect-error no such event
consumer.addEventListener("open", () => {});
// @ts-expect-error the id may not be known
consumer.socketId.length;
// @ts-expect-error the streams are read-only
both.streams.push("more");
