// Compiled, never run: fastcable.d.ts must accept these uses and refuse the marked ones.
import { createCableSubscription, createConsumer } from "../../fastcable/client/fastcable.js";
import type { Callbacks, Consumer, State, StateChange, Subscription } from "../../fastcable/client/fastcable.js";

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
  received(score) {
    const sum: number = score.home + score.away;
    return void sum;
  },
  disconnected: ({ willReconnect }) => void willReconnect,
  gap: ({ missed }) => void (missed === undefined || missed + 1),
  rejected: ({ reason }) => void reason.length,
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
scores.unsubscribe();
scores.stream.length;

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
