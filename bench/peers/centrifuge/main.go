// A server on Centrifuge, the library that Centrifugo is built on, as the library's manual shows it: its defaults
// (memory broker, ping every 25 s, no compression, 1 MiB of queue for each client), anybody may connect and subscribe.
// Messages are published as with Centrifugo's HTTP API: POST /api/publish with {"channel":"S","data":D}.
//
// Usage: centrifuge PORT
package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/centrifugal/centrifuge"
)

type Publication struct {
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: centrifuge PORT")
	}
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		log.Fatal(err)
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, answer centrifuge.SubscribeCallback) {
			answer(centrifuge.SubscribeReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		log.Fatal(err)
	}
	http.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{}))
	http.HandleFunc("POST /api/publish", func(w http.ResponseWriter, r *http.Request) {
		var publication Publication
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &publication)
		}
		if err == nil {
			_, err = node.Publish(publication.Channel, publication.Data)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"result":{}}`)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
