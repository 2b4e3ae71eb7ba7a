// Bun's built-in WebSockets, used as its manual shows: topics and server.publish, which frames a message once and
// sends it to each subscriber in C++ (uWebSockets). Compression is off and pings are sent by default; the HTTP idle
// timeout is raised from 10 s to 255 s, so that a publisher may keep its connection.
//
// Usage: bun server.js PORT
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  idleTimeout: 255,

  async fetch(request, server) {
    const { pathname } = new URL(request.url);
    if (pathname === "/cable") {
      return server.upgrade(request) ? undefined : new Response("WebSockets only", { status: 426 });
    }
    if (pathname !== "/_broadcast" || request.method !== "POST") return new Response("Not found", { status: 404 });
    let body;
    try {
      body = await request.json();
    } catch {
      return Response.json({ error: "not JSON" }, { status: 400 });
    }
    let subscribers = 0;
    for (const { stream, data } of Array.isArray(body) ? body : [body]) {
      subscribers += server.subscriberCount(stream);
      server.publish(stream, JSON.stringify({ type: "message", stream, data }));
    }
    return Response.json({ subscribers });
  },

  websocket: {
    message(socket, message) {
      const { type, stream } = JSON.parse(message);
      if (type === "subscribe") {
        socket.subscribe(stream);
        socket.send(JSON.stringify({ type: "subscribed", stream }));
      } else if (type === "unsubscribe") {
        socket.unsubscribe(stream);
      }
    },
  },
});

process.on("SIGTERM", () => {
  server.stop(true);
  process.exit(0);
});
