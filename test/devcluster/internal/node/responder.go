package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// responder is what port-forward reaches in every pod:
//
//	port 7      echoes every byte (RFC 862)
//	port 1      refuses the connection, as a port nobody listens on
//	other ports speak HTTP/1.1:
//	            /         names pod, port, method and path, then repeats the request's body
//	            /stream   a line every 200 ms until the client goes away
type responder struct {
	conns chan net.Conn
	ctx   context.Context
}

func newResponder(ctx context.Context) *responder {
	r := &responder{conns: make(chan net.Conn), ctx: ctx}
	srv := &http.Server{
		Handler:           http.HandlerFunc(respond),
		ReadHeaderTimeout: time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, targetKey{}, c.(*podConn).target)
		},
	}
	go func() {
		if err := srv.Serve(r); !errors.Is(err, net.ErrClosed) {
			slog.Warn("port-forward responder stopped", "err", err)
		}
	}()
	return r
}

// PortForward joins one stream of a port-forward to the responder.
func (r *responder) PortForward(ctx context.Context, pod, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	switch port {
	case 1:
		return fmt.Errorf("connecting to port %d of pod %s: connection refused", port, pod)
	case 7:
		_, err := io.Copy(stream, stream)
		return err
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	select {
	case r.conns <- &podConn{Conn: theirs, target: fmt.Sprintf("%s port %d", pod, port)}:
	case <-r.ctx.Done():
		return r.ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	go func() {
		_, _ = io.Copy(ours, stream)
		_ = ours.Close()
	}()
	_, err := io.Copy(stream, ours)
	if errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// Accept, Close and Addr make the responder the HTTP server's listener.
func (r *responder) Accept() (net.Conn, error) {
	select {
	case c := <-r.conns:
		return c, nil
	case <-r.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (r *responder) Close() error   { return nil }
func (r *responder) Addr() net.Addr { return &net.UnixAddr{Name: "port-forward", Net: "unix"} }

type podConn struct {
	net.Conn
	target string
}

type targetKey struct{}

func respond(w http.ResponseWriter, r *http.Request) {
	target, _ := r.Context().Value(targetKey{}).(string)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if strings.TrimSuffix(r.URL.Path, "/") == "/stream" {
		streamTicks(w, r, target)
		return
	}
	fmt.Fprintf(w, "pod %s\n%s %s\n", target, r.Method, r.URL.RequestURI())
	_, _ = io.Copy(w, r.Body)
}

func streamTicks(w http.ResponseWriter, r *http.Request, target string) {
	flush := http.NewResponseController(w)
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for n := 1; ; n++ {
		if _, err := fmt.Fprintf(w, "pod %s tick %d\n", target, n); err != nil {
			return
		}
		if flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-t.C:
		}
	}
}
