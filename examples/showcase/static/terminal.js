// <command-output stream="…">: listens with fastcable.js.
import { cable } from "./cable.js";
import { CommandOutput } from "./command_output.js";

customElements.define("command-output", class extends CommandOutput {
  subscribe(callbacks) {
    return cable.subscribe(this.getAttribute("stream"), callbacks);
  }
});
