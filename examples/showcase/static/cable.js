// One connection for everything on a page, and <cable-state>, which says how it is.
import { sharedConsumer } from "fastcable";

export const cable = sharedConsumer(document.documentElement.dataset.cable);

const WORDS = { open: "Live", connecting: "Connecting", waiting: "Reconnecting", closed: "Not connected" };

class CableState extends HTMLElement {
  connectedCallback() {
    this.setAttribute("role", "status");
    cable.addEventListener("statechange", () => this.show());
    this.show();
  }

  show() {
    this.dataset.state = cable.state;
    this.textContent = WORDS[cable.state];
  }
}
customElements.define("cable-state", CableState);
