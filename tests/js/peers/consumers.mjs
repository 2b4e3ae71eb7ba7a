// Two consumers at a server: `node consumers.mjs CABLE BROADCAST` prints what each is told, as JSON.
import WebSocket from "ws";
import { createConsumer } from "../../../fastcable/client/fastcable.js";
import { chronicle } from "../support.mjs";

const [cable, broadcast] = process.argv.slice(2);
const [mine, theirs] = [0, 1].map(() => createConsumer(cable, { WebSocket }));
const post = async (message) => {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(broadcast, { method: "POST", headers, body: JSON.stringify({ stream: "s", ...message }) });
  if (!answer.ok) throw new Error(await answer.text());
};
const [first, second, late] = [0, 1, 2].map(() => chronicle());

mine.subscribe("s", first);
const id = await mine.hello();
await first.log.count(1);
await post({ data: "kept", retain: true });
await first.log.count(2);
theirs.subscribe(["s", "t"], second);
await second.log.count(3);
await post({ data: "not to me", exclude: id });
await post({ data: "to all" });
await first.log.count(3);
mine.subscribe("s", late, { retained: true });
await late.log.count(2);
await post({ data: null, retain: true });
await first.log.count(4);
await second.log.count(6);
const other = await theirs.hello();
theirs.disconnect();
theirs.connect();
await second.log.count(12);
const again = await theirs.hello();
const logs = [first, second, late].map(({ log }) => [...log]);
console.log(JSON.stringify({ ids: new Set([id, other, again]).size, logs }));
mine.disconnect();
theirs.disconnect();
