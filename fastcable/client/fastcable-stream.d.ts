/** Types of fastcable-stream.js, which defines the element `<fastcable-stream>` when it is imported. */

/** `detail` of the event `turbo:stream-message`. */
export interface StreamMessage<Data = any> {
  stream: string;
  data: Data;
}

/** `detail` of the event `fastcable:missed`. */
export interface StreamMissed {
  stream: string;
  reason: "reconnect" | "gap";
  count?: number;
}

/** Attributes: `stream`, `url`, `retained`; and `connected`, which it sets itself. */
export class FastcableStreamElement extends HTMLElement {}

declare global {
  interface HTMLElementTagNameMap {
    "fastcable-stream": FastcableStreamElement;
  }
  interface GlobalEventHandlersEventMap {
    "turbo:stream-message": CustomEvent<StreamMessage>;
    "fastcable:missed": CustomEvent<StreamMissed>;
  }
}
