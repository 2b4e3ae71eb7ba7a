// <live-heat stream="…" src="…">: what is on the floor. Its first content is part of the page.
import { cable } from "./cable.js";
import { fetchHTML, show } from "./fragment.js";

class LiveHeat extends HTMLElement {
  connectedCallback() {
    this.subscription = cable.subscribe(this.getAttribute("stream"), {
      received: (html) => this.show(html),
      // After a reconnect the retained message comes by itself, but a server that was restarted retains nothing.
      missed: () => this.refetch(),
    });
  }

  disconnectedCallback() {
    this.subscription.unsubscribe();
  }

  async refetch() {
    const html = await fetchHTML(this.getAttribute("src"));
    if (html) this.show(html);
  }

  show(html) {
    if (show(this, html)) this.dispatchEvent(new CustomEvent("heat", { bubbles: true }));
  }
}
customElements.define("live-heat", LiveHeat);
