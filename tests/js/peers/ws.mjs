// A client on npm's ws: `node ws.mjs URL STREAM DEFLATE` prints what happens to it, a line each, until it is closed.
import WebSocket from "ws";

const [url, stream, deflate] = process.argv.slice(2);
const socket = new WebSocket(url, { perMessageDeflate: deflate === "true" });
socket.on("open", () => {
  console.log(`open extensions=${socket.extensions}`);
  socket.send(JSON.stringify({ type: "subscribe", stream }));
});
socket.on("message", (data, isBinary) => console.log(`${isBinary ? "binary" : "text"} ${data}`));
socket.on("ping", () => console.log("ping"));
socket.on("close", (code, reason) => console.log(`close ${code} ${reason}`));
socket.on("error", (error) => console.log(`error ${error.message}`));
