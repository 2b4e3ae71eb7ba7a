/*
 * Joining what is fetched with what arrives.
 *
 * Where messages are changes and not states, a page subscribes first and fetches then: what happened before the fetch is
 * in it, what happens after it comes as a message. Messages that come during a fetch wait, and are applied to what it
 * brought, so applying one twice must do no harm. When something may have been missed, it is fetched again.
 */

const RETRY = 1_000; // ms, and up to as much again at random

export class CatchUp {
  #fetch;
  #apply;
  #waiting = null; // messages that came since a fetch began
  #again = false;

  /**
   * `fetch` gets what there is and shows it; resolves to false if it could not.
   * `apply` shows a message; returns false if something before it is missing.
   */
  constructor({ fetch, apply }) {
    this.#fetch = fetch;
    this.#apply = apply;
  }

  receive(message) {
    if (this.#waiting) this.#waiting.push(message);
    else if (this.#apply(message) === false) this.start();
  }

  /** Call when the subscription begins, begins again, or has lost messages. */
  async start() {
    this.#again = true;
    if (this.#waiting) return; // the one under way goes round once more
    this.#waiting = [];
    while (this.#again) {
      this.#again = false;
      if ((await this.#fetch()) === false) {
        this.#again = true;
        await new Promise((resolve) => setTimeout(resolve, RETRY * (1 + Math.random())));
        continue;
      }
      for (const message of this.#waiting.splice(0)) if (this.#apply(message) === false) this.#again = true;
    }
    this.#waiting = null;
  }
}
