/** Types of fastcable.js. `Data` is what the application posts to the stream: any JSON value. */

export type State = "closed" | "connecting" | "open" | "waiting";

export interface StateChange {
  readonly state: State;
  /** While waiting: when the next attempt is due, in milliseconds since 1970. Else null, as for a page put away. */
  readonly retryAt: number | null;
  /**
   * Waiting or closed: what the server said when it closed the connection, if it did. After "unauthorized" (it takes no
   * token of this page) and "closed remotely for good" the consumer stays closed until connect(). After "token expired"
   * it tries again, or at once when connect(url) brings a new token.
   */
  readonly reason: string | null;
}

/** `statechange`, the event of a Consumer. */
export interface StateChangeEvent extends Event, StateChange {}

/**
 * For each stream of a subscription: connected, then missed if it was connected before, then received, gap and missed,
 * then disconnected, never outside this order.
 */
export interface Callbacks<Data = any> {
  /** Every message from here on arrives. `reconnected`: it was connected before, and may have missed some since. */
  connected?(info: { stream: string; reconnected: boolean }): void;
  /** A message, in the order in which the server accepted them. */
  received?(data: Data, info: { stream: string }): void;
  /**
   * The connection was lost, or closed by disconnect() or by the server for good (`willReconnect` is false). Not called by
   * unsubscribe().
   */
  disconnected?(info: { stream: string; willReconnect: boolean }): void;
  /** Messages were dropped because this connection was too slow to take them. */
  gap?(info: { stream: string; missed?: number }): void;
  /**
   * Messages may have been lost, so load afresh what they would have told: after connected() when the connection had
   * been lost, before the first message; or after gap(), where `count` says how many if the server did.
   */
  missed?(info: { stream: string; reason: "reconnect" | "gap"; count?: number }): void;
  /** The server refused the subscription, which is over. Without this callback, a console warning tells. */
  rejected?(info: { stream: string; reason: string }): void;
}

export interface SubscribeOptions {
  /** Unsubscribes when it is aborted. One that already is subscribes to nothing. */
  signal?: AbortSignal;
  /**
   * For streams whose messages are all posted with `retain`. The server gives the retained value to this connection
   * when its first subscription to a stream starts; with `retained: true` one that is made while the stream is already
   * live here starts with the last message, too, unless that was null or may be outdated (a gap). A message that this
   * socket was excluded from is not known here. Default: false, it starts with the next message.
   */
  retained?: boolean;
}

export interface Subscriptions {
  /** Those asked for, each once. */
  readonly streams: readonly string[];
  /** Ends the subscription to all of them; no callback is called any more. May be called twice. */
  unsubscribe(): void;
}

export interface Subscription extends Subscriptions {
  readonly stream: string;
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
  onstatechange?: (event: StateChangeEvent) => void;
}

export interface Consumer extends EventTarget {
  readonly url: string;
  readonly state: State;
  readonly retryAt: number | null;
  readonly reason: string | null;
  /** What the server calls this connection; null while there is none, or nobody asked for it by hello(). */
  readonly socketId: string | null;
  /** Called with each `statechange` event, before its listeners. */
  onstatechange?: (event: StateChangeEvent) => void;
  addEventListener(
    type: "statechange",
    listener: ((event: StateChangeEvent) => void) | { handleEvent(event: StateChangeEvent): void } | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener(
    type: "statechange",
    listener: ((event: StateChangeEvent) => void) | { handleEvent(event: StateChangeEvent): void } | null,
    options?: boolean | EventListenerOptions,
  ): void;
  /**
   * Subscriptions to the same stream share one on the wire. All are made again after a reconnect.
   * A name is the stream's, of at most 255 bytes, or where the server asks for that a signed one; one that is neither
   * is refused by the server: `rejected`.
   * @throws TypeError for a name that can be neither: empty, over 4096 bytes, with control characters.
   */
  subscribe<Data = any>(stream: string, callbacks?: Callbacks<Data>, options?: SubscribeOptions): Subscription;
  /** The same callbacks for several streams: each is told which one. */
  subscribe<Data = any>(
    streams: readonly string[],
    callbacks?: Callbacks<Data>,
    options?: SubscribeOptions,
  ): Subscriptions;
  /**
   * Asks the server for the id of this connection, now and after each reconnect, and connects for it if need be. Posted
   * as a broadcast's `exclude`, the id keeps the message from this connection. Resolves at once where the id is known,
   * else when it is: while the server cannot be reached that takes its time, and `socketId` is there to ask instead.
   * Rejects when disconnect() was called, when the server closed the connection for good, or if it knows no hello.
   */
  hello(): Promise<string>;
  /**
   * Allows connections again after disconnect(), or after the server closed the connection for good; while waiting, tries
   * at once, but after a `reason` not more than once a second.
   * @param url for this and all later connections, with a new token, say. Default: as before.
   */
  connect(url?: string | URL): void;
  /** Closes the connection and stays closed until connect(). Subscriptions are kept. */
  disconnect(): void;
}

/**
 * A connection to a fastcable server, opened at the first subscription.
 * @param url of the cable path: relative to the page, http(s) or ws(s). Default: `/cable` on the page's host.
 */
export function createConsumer(url?: string | URL, options?: ConsumerOptions): Consumer;

/** The one consumer of all callers with the same URL, with the options of the first call. */
export function sharedConsumer(url?: string | URL, options?: ConsumerOptions): Consumer;

/** For a page with a stream or two: subscribes over the shared consumer. */
export function createCableSubscription<Data = any>(
  stream: string,
  callbacks: Callbacks<Data>,
  options?: ConsumerOptions & SubscribeOptions & { url?: string | URL },
): Subscription;
export function createCableSubscription<Data = any>(
  streams: readonly string[],
  callbacks: Callbacks<Data>,
  options?: ConsumerOptions & SubscribeOptions & { url?: string | URL },
): Subscriptions;
