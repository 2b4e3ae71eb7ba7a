/** Types of fastcable.js. `Data` is what the application posts to the stream: any JSON value. */

export type State = "closed" | "connecting" | "open" | "waiting";

export interface StateChange {
  state: State;
  /** While waiting: when the next attempt is due, in milliseconds since 1970. Else null, as for a page put away. */
  retryAt: number | null;
}

/** For each subscriber: connected, then received and gap, then disconnected, never outside this order. */
export interface Callbacks<Data = any> {
  /** Every message from here on arrives. `reconnected`: it was connected before, and may have missed some since. */
  connected?(info: { reconnected: boolean }): void;
  /** A message, in the order in which the server accepted them. */
  received?(data: Data): void;
  /** The connection was lost, or closed by disconnect() (`willReconnect` is false). Not called by unsubscribe(). */
  disconnected?(info: { willReconnect: boolean }): void;
  /** Messages were dropped because this connection was too slow to take them. */
  gap?(info: { missed?: number }): void;
  /** The server refused the subscription, which is over. Without this callback, a console warning tells. */
  rejected?(info: { reason: string }): void;
}

export interface Subscription {
  readonly stream: string;
  /** Ends the subscription; no callback is called any more. May be called twice. */
  unsubscribe(): void;
}

/** What a WebSocket class must be like: the browser's, Node's (22 and up) or that of the `ws` package. */
export type WebSocketConstructor = new (url: string) => {
  readonly readyState: number;
  onopen: any;
  onmessage: any;
  onclose: any;
  onerror: any;
  send(data: string): void;
  close(): void;
};

export interface ConsumerOptions {
  /** Default: the global one. */
  WebSocket?: WebSocketConstructor;
  /** Milliseconds without a frame after which a connection counts as dead: over two ping intervals. Default: 75 000. */
  silenceTimeout?: number;
  /** Called after each change of state, and when the time of the next attempt changes. */
  onstatechange?: (change: StateChange) => void;
}

export interface Consumer {
  readonly url: string;
  readonly state: State;
  readonly retryAt: number | null;
  onstatechange?: (change: StateChange) => void;
  /**
   * Subscriptions to the same stream share one on the wire. All are made again after a reconnect.
   * @throws TypeError for a name that no stream can have: empty, over 255 bytes, with control characters.
   */
  subscribe<Data = any>(stream: string, callbacks?: Callbacks<Data>): Subscription;
  /** Allows connections again after disconnect(); while waiting, tries at once. */
  connect(): void;
  /** Closes the connection and stays closed until connect(). Subscriptions are kept. */
  disconnect(): void;
}

/**
 * A connection to a fastcable server, opened at the first subscription.
 * @param url of the cable path: relative to the page, http(s) or ws(s). Default: `/cable` on the page's host.
 */
export function createConsumer(url?: string | URL, options?: ConsumerOptions): Consumer;

/** For a page with a stream or two: subscribes over one consumer shared by all callers with the same URL. */
export function createCableSubscription<Data = any>(
  stream: string,
  callbacks: Callbacks<Data>,
  options?: ConsumerOptions & { url?: string | URL },
): Subscription;
