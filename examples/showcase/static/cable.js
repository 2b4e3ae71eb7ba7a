// One connection for everything on a page.
import { sharedConsumer } from "fastcable";
import { showState } from "./cable_state.js";

export const cable = sharedConsumer(document.documentElement.dataset.cable);

cable.addEventListener("statechange", () => showState(cable.state));
showState(cable.state);
