// Compiled, never run: fastcable-stream.d.ts must accept these uses and refuse the marked one.
import { FastcableStreamElement } from "../../fastcable/client/fastcable-stream.js";
import type { StreamMessage, StreamMissed } from "../../fastcable/client/fastcable-stream.js";

document.createElement("fastcable-stream") satisfies FastcableStreamElement;
document.addEventListener("turbo:stream-message", ({ detail }) => {
  const { stream, data }: StreamMessage<{ home: number }> = detail;
  return stream.length + data.home;
});
document.querySelector("fastcable-stream")?.addEventListener("fastcable:missed", ({ detail }) => {
  const { stream, reason, count }: StreamMissed = detail;
  return [stream.length, reason, count];
});

// @ts-expect-error no such detail
document.addEventListener("turbo:stream-message", ({ detail }) => detail.message);
