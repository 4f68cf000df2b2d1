package proxy_test

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// echo is the end of an exec in an apiserver: what comes on stdin goes out on
// stdout until stdin ends. It speaks Kubernetes' remote command protocols, v4
// over SPDY and v5 over WebSocket, with the libraries that Kubernetes does.
type echo struct {
	running atomic.Int64
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.running.Add(1)
	defer e.running.Add(-1)
	if websocket.IsWebSocketUpgrade(r) {
		e.webSocket(w, r)
		return
	}
	if r.URL.Path == "/api/v1/namespaces/default/pods/p/portforward" {
		e.ports(w, r)
		return
	}
	e.spdy(w, r)
}

const success = `{"metadata":{},"status":"Success"}`

func (e *echo) spdy(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io"}); err != nil {
		return
	}
	streams := make(chan httpstream.Stream, 8)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	byType := map[string]httpstream.Stream{}
	for len(byType) < 3 {
		select {
		case s := <-streams:
			byType[s.Headers().Get("streamType")] = s
		case <-conn.CloseChan():
			return
		case <-time.After(5 * time.Second):
			return
		}
	}
	go func() {
		io.Copy(byType["stdout"], byType["stdin"])
		io.WriteString(byType["error"], success)
		byType["stdout"].Close()
		byType["error"].Close()
	}()
	<-conn.CloseChan()
}

func (e *echo) webSocket(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	for {
		_, m, err := c.ReadMessage()
		if err != nil {
			return
		}
		switch {
		case len(m) >= 1 && m[0] == 0: // stdin
			err = c.WriteMessage(websocket.BinaryMessage, append([]byte{1}, m[1:]...))
		case len(m) == 2 && m[0] == 255 && m[1] == 0: // stdin is closed
			c.WriteMessage(websocket.BinaryMessage, append([]byte{3}, success...))
			c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
		}
		if err != nil {
			return
		}
	}
}

// ports is a port-forward: every data stream is echoed.
func (e *echo) ports(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
		return
	}
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, replied <-chan struct{}) error {
		if s.Headers().Get("streamType") == "data" {
			go func() {
				<-replied
				io.Copy(s, s)
				s.Close()
			}()
		}
		return nil
	})
	if conn != nil {
		defer conn.Close()
		<-conn.CloseChan()
	}
}
