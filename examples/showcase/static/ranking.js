// <live-ranking stream="…" src="…">: a table that is fetched anew after a signal. Its first content is part of the page.
import { cable } from "./cable.js";
import { fetchHTML, show, version } from "./fragment.js";
import { Refresher } from "./refresher.js";

class LiveRanking extends HTMLElement {
  connectedCallback() {
    this.refresher = new Refresher({ shown: version(this.firstElementChild), fetch: () => this.fetch() });
    this.subscription = cable.subscribe(this.getAttribute("stream"), {
      received: (signal) => this.refresher.signal(signal.version),
      missed: () => this.refresher.doubt(),
    });
  }

  disconnectedCallback() {
    this.subscription.unsubscribe();
  }

  async fetch() {
    const html = await fetchHTML(this.getAttribute("src"));
    if (!html) return;
    show(this, html);
    return version(this.firstElementChild);
  }
}
customElements.define("live-ranking", LiveRanking);
