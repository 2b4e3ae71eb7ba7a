/*
 * <live-ballot stream="…" src="…" judge="A">: a judge's crosses for the couples on the floor.
 *
 * A tap shows at once, and is then sent; the taps of one ballot are sent one after the other. The signal it causes is
 * for everybody but this page, whose state is the newer one. Another tablet of the same judge follows by fetching, and
 * so does this page when another heat begins; what comes while a tap is on its way is too old to be shown.
 */
import { cable } from "./cable.js";
import { fetchHTML, show, version } from "./fragment.js";
import { Refresher } from "./refresher.js";

class LiveBallot extends HTMLElement {
  #sending = Promise.resolve();
  #taps = 0;
  #unsent = 0;

  connectedCallback() {
    const judge = this.getAttribute("judge");
    this.refresher = new Refresher({
      shown: version(this.firstElementChild), delay: 50, spread: 100, fetch: () => this.fetch(),
    });
    this.subscription = cable.subscribe(this.getAttribute("stream"), {
      // Without a judge, the signal is that of another heat.
      received: (signal) => (!signal.judge || signal.judge === judge) && this.refresher.signal(signal.version),
      missed: () => this.refresher.doubt(),
    });
    cable.hello().catch(() => {}); // for cable.socketId; without it this page hears of its own taps, too
    this.addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (tile) this.tap(tile);
    });
  }

  disconnectedCallback() {
    this.subscription.unsubscribe();
  }

  async fetch() {
    const before = this.#taps;
    const html = await fetchHTML(this.getAttribute("src"));
    if (!html || this.#unsent || this.#taps !== before) return; // and is tried again
    show(this, html);
    return version(this.firstElementChild);
  }

  tap(tile) {
    const crossed = tile.getAttribute("aria-pressed") !== "true";
    this.#set(tile, crossed);
    const body = new URLSearchParams({ round: this.firstElementChild.dataset.round, couple: tile.value, crossed });
    this.#taps += 1;
    this.#unsent += 1;
    this.#sending = this.#sending.then(async () => {
      const headers = cable.socketId ? { "X-Cable-Socket": cable.socketId } : {};
      const answer = await fetch(this.getAttribute("src"), { method: "POST", body, headers }).catch(() => undefined);
      this.#unsent -= 1;
      if (!answer?.ok) this.refresher.doubt(); // shows what the application has
    });
  }

  #set(tile, crossed) {
    tile.setAttribute("aria-pressed", crossed);
    const tally = this.querySelector(".tally b");
    tally.textContent = Number(tally.textContent) + (crossed ? 1 : -1);
  }
}
customElements.define("live-ballot", LiveBallot);
