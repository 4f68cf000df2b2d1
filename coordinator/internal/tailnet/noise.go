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

	"golang.org/x/net/http2"
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
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(tailcfg.OverTLSPublicKeyResponse{PublicKey: s.noise.Public()})
}

// serveNoise turns the connection into HTTP/2 inside Noise, where the client's
// machine key is proven, and serves it until it closes.
func (s *Server) serveNoise(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || !strings.EqualFold(r.Header.Get("Upgrade"), "tailscale-control-protocol") {
		http.Error(w, "this is the overlay's control protocol, for nodes only", http.StatusUpgradeRequired)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), handshakeTime)
	conn, err := controlhttpserver.AcceptHTTP(ctx, hijacker{w}, r, s.noise, nil)
	cancel()
	if err != nil {
		s.log.Debug("control handshake failed", "remote", r.RemoteAddr, "error", err)
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(s.ctx, func() { conn.Close() })
	defer stop()
	h2 := &http2.Server{
		MaxConcurrentStreams:         16, // a client has one stream open and sends a few posts
		MaxReadFrameSize:             64 << 10,
		MaxUploadBufferPerConnection: maxRequest,
		MaxUploadBufferPerStream:     64 << 10,
		IdleTimeout:                  2 * time.Minute,
		ReadIdleTimeout:              time.Minute, // then a ping, so that a host that vanished is offline soon
		PingTimeout:                  15 * time.Second,
		WriteByteTimeout:             writeTime,
	}
	h2.ServeConn(conn, &http2.ServeConnOpts{
		Context:    s.ctx,
		BaseConfig: &http.Server{ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), MaxHeaderBytes: 16 << 10},
		Handler:    s.machineHandler(conn.Peer()),
	})
}

// machineHandler serves what a machine may ask, once Noise has proven its key.
func (s *Server) machineHandler(machine key.MachinePublic) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /machine/register", func(w http.ResponseWriter, r *http.Request) {
		s.serveRegister(w, r, machine)
	})
	mux.HandleFunc("POST /machine/map", func(w http.ResponseWriter, r *http.Request) {
		s.serveMap(w, r, machine)
	})
	mux.HandleFunc("/machine/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "not offered on this overlay", http.StatusNotImplemented)
	})
	return mux
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
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestTime))
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
