package tailnet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"tailscale.com/control/controlbase"
	"tailscale.com/control/controlhttp/controlhttpserver"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

const (
	// handshakeTime bounds the Noise handshake.
	handshakeTime = 10 * time.Second
	// requestTime bounds the reading of a request inside Noise, writeTime the
	// writing of one frame.
	requestTime = 30 * time.Second
	writeTime   = 30 * time.Second
	// maxRequest bounds a request. The largest honest ones carry a few kilobytes
	// about the host and its network.
	maxRequest = 256 << 10
)

// serveKey tells clients the server's Noise key, over TLS.
func (s *Server) serveKey(w http.ResponseWriter, _ *http.Request) {
	reply(w, tailcfg.OverTLSPublicKeyResponse{PublicKey: s.noise.Public()})
}

// serveNoise does the Noise handshake, which proves the client's machine key, and
// hands the connection to the inner server.
func (s *Server) serveNoise(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || !strings.EqualFold(r.Header.Get("Upgrade"), "tailscale-control-protocol") {
		http.Error(w, "this is the overlay's control protocol, for nodes only", http.StatusUpgradeRequired)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), handshakeTime)
	defer cancel()
	conn, err := controlhttpserver.AcceptHTTP(ctx, hijacker{w}, r, s.noise, nil)
	if err != nil {
		s.log.Debug("control handshake failed", "remote", r.RemoteAddr, "error", err)
		return
	}
	s.accepted.hand(conn)
}

// machineKey is where a request's context has the machine key that Noise proved.
type machineKey struct{}

// innerServer serves HTTP/2 on connections whose Noise handshake is done.
func (s *Server) innerServer() *http.Server {
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true) // in the clear only to net/http: Noise is around it
	return &http.Server{
		Handler:   s.machineHandler(),
		Protocols: h2c,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, machineKey{}, c.(*controlbase.Conn).Peer())
		},
		ReadHeaderTimeout: requestTime,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          16, // a client has one stream open and sends a few posts
			MaxReadFrameSize:              64 << 10,
			MaxReceiveBufferPerConnection: maxRequest,
			MaxReceiveBufferPerStream:     64 << 10,
			SendPingTimeout:               time.Minute, // so that a host that vanished is offline soon
			PingTimeout:                   15 * time.Second,
			WriteByteTimeout:              writeTime,
		},
	}
}

// handover is a listener whose connections are handed to it.
type handover struct {
	conns chan net.Conn
	ctx   context.Context
}

func (h *handover) hand(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.ctx.Done():
		c.Close()
	}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error   { return nil }
func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }

// machineHandler serves what a machine may ask, once Noise has proven its key.
func (s *Server) machineHandler() http.Handler {
	as := func(serve func(http.ResponseWriter, *http.Request, key.MachinePublic)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			serve(w, r, r.Context().Value(machineKey{}).(key.MachinePublic))
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /machine/register", as(s.serveRegister))
	mux.HandleFunc("POST /machine/map", as(s.serveMap))
	mux.HandleFunc("/machine/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "not offered on this overlay", http.StatusNotImplemented)
	})
	return mux
}

// reply answers with JSON.
func reply(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "encoding the answer failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(b)
}

// requestError is a request that is answered with a status and a sentence.
type requestError struct {
	status int
	text   string
}

func (e *requestError) Error() string { return e.text }

func refuse(status int, format string, a ...any) error {
	return &requestError{status, fmt.Sprintf(format, a...)}
}

func (s *Server) answerError(w http.ResponseWriter, err error) {
	var re *requestError
	if !errors.As(err, &re) {
		s.log.Error("control request failed", "error", err)
		re = &requestError{http.StatusInternalServerError, "the coordinator could not do this: try again later"}
	}
	if re.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2")
	}
	http.Error(w, re.text, re.status)
}

// readRequest reads and decodes the body of a request inside Noise.
func readRequest(w http.ResponseWriter, r *http.Request, v any) error {
	err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestTime))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return refuse(http.StatusBadRequest, "reading the request: %v", err)
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		return refuse(http.StatusRequestEntityTooLarge, "a control request may have %d bytes", maxRequest)
	case err != nil:
		return refuse(http.StatusBadRequest, "reading the request: %v", err)
	}
	return decode(b, v)
}

func decode(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return refuse(http.StatusBadRequest, "this is not a control request")
	}
	return nil
}

func checkVersion(v tailcfg.CapabilityVersion) error {
	if v < oldestClient {
		return refuse(http.StatusBadRequest, "this client is too old (capability version %d): the overlay needs %d, which is Tailscale 1.80, or later", v, oldestClient)
	}
	return nil
}

// hijacker lets libraries take over a connection through whatever middleware
// has wrapped around the ResponseWriter.
type hijacker struct{ http.ResponseWriter }

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(h.ResponseWriter).Hijack()
}
