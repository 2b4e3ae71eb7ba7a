/*
 * When to fetch what a signal said has changed.
 *
 * Signals carry a version. The first one newer than what is shown starts a wait of `delay` ms and a random part of
 * `spread` ms; those that follow are covered by the same fetch. So a board makes at most one request in `delay` ms
 * however many signals there are, and a thousand boards do not make theirs in the same moment. It is not put off by
 * further signals: where they never pause, the board would never change.
 *
 *   nothing to do --signal--> waiting --timer--> fetching --> nothing to do, or waiting again: the fetch failed, or
 *                                                             what it brought is older than a signal that came meanwhile
 */

const MOST = 30_000; // ms between attempts while the application is away

export class Refresher {
  #wanted = 0; // the newest version that was heard of
  #shown;
  #doubtful = false;
  #busy = false;
  #failures = 0;

  /** `fetch` gets what is newest, shows it, and resolves to its version; to undefined if it could not. */
  constructor({ shown = 0, delay = 300, spread = 700, fetch, random = Math.random }) {
    this.#shown = shown;
    Object.assign(this, { delay, spread, fetch, random });
  }

  signal(version) {
    this.#wanted = Math.max(this.#wanted, version);
    this.#next();
  }

  /** Something may have been missed. */
  doubt() {
    this.#doubtful = true;
    this.#next();
  }

  #next() {
    if (this.#busy || (!this.#doubtful && this.#shown >= this.#wanted)) return;
    this.#busy = true;
    const longer = 2 ** this.#failures;
    const wait = Math.min(MOST, (this.delay + this.random() * this.spread) * longer);
    setTimeout(() => this.#run(), wait);
  }

  async #run() {
    this.#doubtful = false;
    const version = await this.fetch();
    this.#busy = false;
    if (version === undefined) {
      this.#failures += 1;
      this.#doubtful = true;
    } else {
      this.#failures = 0;
      this.#shown = version;
    }
    this.#next();
  }
}
