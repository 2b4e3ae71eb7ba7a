/*
 * <live-board src="…"> around a <fastcable-stream> and a <div>: a table whose rows are replaced by <turbo-stream> messages.
 *
 * <fastcable-stream> gives the messages to Turbo, and Turbo puts each in its place; that needs no script. What is here is
 * for what a page may miss. Messages are changes, so the table is fetched once the subscription has begun, and each time
 * it has begun again (catch_up.js); rows that come meanwhile wait. A row is replaced as a whole: one that the table had
 * already does no harm.
 */
import * as Turbo from "@hotwired/turbo";
import "fastcable-stream";
import { CatchUp } from "./catch_up.js";
import { fetchHTML } from "./fragment.js";

Turbo.session.drive = false; // only its streams are wanted here

class LiveBoard extends HTMLElement {
  connectedCallback() {
    const catchUp = new CatchUp({ fetch: () => this.fetch(), apply: (render) => void render() });
    document.addEventListener("turbo:before-stream-render", ({ detail }) => {
      const { render } = detail;
      detail.render = (element) => catchUp.receive(() => render(element));
    });
    const stream = this.querySelector("fastcable-stream");
    const connected = () => stream.hasAttribute("connected") && catchUp.start();
    new MutationObserver(connected).observe(stream, { attributeFilter: ["connected"] });
    this.addEventListener("fastcable:missed", ({ detail }) => detail.reason === "gap" && catchUp.start());
    connected();
  }

  async fetch() {
    const html = await fetchHTML(this.getAttribute("src"));
    if (!html) return false;
    this.querySelector("div").innerHTML = html;
    return true;
  }
}
customElements.define("live-board", LiveBoard);
