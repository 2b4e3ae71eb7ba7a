// The Go handler of the usual kind: gorilla/websocket's chat example with streams. Each connection has two goroutines
// and a channel of 256 messages; the hub is a map of streams under a RWMutex, a broadcast puts the same bytes into each
// subscriber's channel, and a client whose channel is full is dropped. Buffers, times and limits are the example's or
// the library's defaults; messages that wait together are written as frames of their own, as this protocol needs it.
//
// Usage: gorilla PORT
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	writeWait      = 10 * time.Second
	pongWait       = 60 * time.Second
	pingPeriod     = (pongWait * 9) / 10
	maxMessageSize = 512
	sendBuffer     = 256
)

type Client struct {
	conn    *websocket.Conn
	send    chan []byte
	streams map[string]struct{}
	gone    bool
}

// Hub knows who subscribed to what. Messages are sent into channels under the read lock, channels are closed under the
// write lock.
type Hub struct {
	mu      sync.RWMutex
	streams map[string]map[*Client]struct{}
}

type Command struct {
	Type   string `json:"type"`
	Stream string `json:"stream"`
}

type Broadcast struct {
	Stream string          `json:"stream"`
	Data   json.RawMessage `json:"data"`
}

type Message struct {
	Type   string          `json:"type"`
	Stream string          `json:"stream"`
	Data   json.RawMessage `json:"data"`
}

func (h *Hub) subscribe(c *Client, stream string, answer []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.gone {
		return
	}
	select {
	case c.send <- answer:
	default:
		h.remove(c)
		return
	}
	if h.streams[stream] == nil {
		h.streams[stream] = make(map[*Client]struct{})
	}
	h.streams[stream][c] = struct{}{}
	c.streams[stream] = struct{}{}
}

func (h *Hub) unsubscribe(c *Client, stream string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leave(c, stream)
	delete(c.streams, stream)
}

func (h *Hub) drop(c *Client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remove(c)
}

func (h *Hub) remove(c *Client) {
	if c.gone {
		return
	}
	c.gone = true
	for stream := range c.streams {
		h.leave(c, stream)
	}
	close(c.send)
}

func (h *Hub) leave(c *Client, stream string) {
	delete(h.streams[stream], c)
	if len(h.streams[stream]) == 0 {
		delete(h.streams, stream)
	}
}

func (h *Hub) publish(stream string, message []byte) int {
	var slow []*Client
	h.mu.RLock()
	clients := h.streams[stream]
	subscribers := len(clients)
	for c := range clients {
		select {
		case c.send <- message:
		default:
			slow = append(slow, c)
		}
	}
	h.mu.RUnlock()
	for _, c := range slow {
		h.drop(c)
	}
	return subscribers
}

func (h *Hub) readPump(c *Client) {
	defer func() {
		h.drop(c)
		c.conn.Close()
	}()
	c.conn.SetReadLimit(maxMessageSize)
	c.conn.SetReadDeadline(time.Now().Add(pongWait))
	c.conn.SetPongHandler(func(string) error { return c.conn.SetReadDeadline(time.Now().Add(pongWait)) })
	for {
		_, text, err := c.conn.ReadMessage()
		if err != nil {
			return
		}
		var command Command
		if err := json.Unmarshal(text, &command); err != nil {
			return
		}
		switch command.Type {
		case "subscribe":
			answer, _ := json.Marshal(Command{"subscribed", command.Stream})
			h.subscribe(c, command.Stream, answer)
		case "unsubscribe":
			h.unsubscribe(c, command.Stream)
		}
	}
}

func (c *Client) writePump() {
	ticker := time.NewTicker(pingPeriod)
	defer func() {
		ticker.Stop()
		c.conn.Close()
	}()
	for {
		select {
		case message, ok := <-c.send:
			c.conn.SetWriteDeadline(time.Now().Add(writeWait))
			if !ok {
				c.conn.WriteMessage(websocket.CloseMessage, []byte{})
				return
			}
			if err := c.conn.WriteMessage(websocket.TextMessage, message); err != nil {
				return
			}
		case <-ticker.C:
			c.conn.SetWriteDeadline(time.Now().Add(writeWait))
			if err := c.conn.WriteMessage(websocket.PingMessage, nil); err != nil {
				return
			}
		}
	}
}

var upgrader websocket.Upgrader

func (h *Hub) serveCable(w http.ResponseWriter, r *http.Request) {
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	c := &Client{conn: conn, send: make(chan []byte, sendBuffer), streams: make(map[string]struct{})}
	go c.writePump()
	go h.readPump(c)
}

func (h *Hub) serveBroadcast(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(r.Body)
	broadcasts := make([]Broadcast, 1)
	if err == nil && bytes.HasPrefix(body, []byte("[")) {
		err = json.Unmarshal(body, &broadcasts)
	} else if err == nil {
		err = json.Unmarshal(body, &broadcasts[0])
	}
	if err != nil {
		http.Error(w, "not a broadcast", http.StatusBadRequest)
		return
	}
	subscribers := 0
	for _, b := range broadcasts {
		message, err := json.Marshal(Message{"message", b.Stream, b.Data})
		if err != nil {
			http.Error(w, "not a broadcast", http.StatusBadRequest)
			return
		}
		subscribers += h.publish(b.Stream, message)
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"subscribers":%d}`, subscribers)
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: gorilla PORT")
	}
	hub := &Hub{streams: make(map[string]map[*Client]struct{})}
	http.HandleFunc("/cable", hub.serveCable)
	http.HandleFunc("/_broadcast", hub.serveBroadcast)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
