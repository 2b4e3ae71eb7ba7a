// A page with @rails/actioncable, as far as Node can be one: evaluates each line of stdin, and answers with its value.
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import * as ActionCable from "@rails/actioncable";
import WebSocket from "ws";

const library = ActionCable.default ?? ActionCable;
library.adapters.WebSocket = WebSocket;
Object.assign(globalThis, {
  ActionCable: library,
  addEventListener: () => {}, // the client listens for visibilitychange
  removeEventListener: () => {},
  document: { visibilityState: "visible" },
});
const evaluate = eval; // called by another name, it runs in the global scope
evaluate(readFileSync(new URL("rails-page.js", import.meta.url), "utf8"));

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { value: (await evaluate(JSON.parse(line))) ?? null };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(); // a consumer has timers
