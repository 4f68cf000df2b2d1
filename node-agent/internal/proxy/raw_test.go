package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// dial opens a TLS connection from the person's device.
func (w *world) dial(t testing.TB, p *person, proto string) (*tls.Conn, error) {
	t.Helper()
	c, err := dialer(p).Dial("tcp", w.addr)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	tc := tls.Client(c, w.tlsConfig(p, proto))
	return tc, tc.Handshake()
}

// dialQuietly is dial for callers that take a refusal in their stride.
func (w *world) dialQuietly(p *person) (*tls.Conn, error) {
	return tls.DialWithDialer(dialer(p), "tcp", w.addr, w.tlsConfig(p, "http/1.1"))
}

// rawH1 sends bytes on an HTTP/1.1 connection and reads one answer; nil means
// that the connection was closed without one.
func (w *world) rawH1(t testing.TB, p *person, bytes string) (*http.Response, *bufio.Reader, *tls.Conn) {
	t.Helper()
	c, err := w.dial(t, p, "http/1.1")
	must(t, err)
	_, err = io.WriteString(c, bytes)
	must(t, err)
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return nil, br, c
	}
	return res, br, c
}

func readResponse(t testing.TB, r io.Reader) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(r), nil)
	must(t, err)
	return res
}

// rawH2 sends a header block as it is on an HTTP/2 connection. status is 0 where
// the stream or connection was reset.
func (w *world) rawH2(t testing.TB, p *person, fields [][2]string) (status int, body []byte) {
	t.Helper()
	c, err := w.dial(t, p, "h2")
	must(t, err)
	defer c.Close()
	fr := startH2(t, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range fields {
		must(t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	must(t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}))
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			if errors.Is(err, io.EOF) || status != 0 {
				return status, body
			}
			return 0, nil
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if s := f.PseudoValue("status"); s != "" {
				status, _ = strconv.Atoi(s)
			}
			if f.StreamEnded() {
				return status, body
			}
		case *http2.DataFrame:
			body = append(body, f.Data()...)
			if f.StreamEnded() {
				return status, body
			}
		case *http2.RSTStreamFrame:
			return 0, nil
		case *http2.GoAwayFrame:
			return 0, nil
		}
	}
}

// everyTransport sends one request by HTTP/1.1 and by HTTP/2 and returns both
// status codes, 0 where the connection or stream was torn down.
func (w *world) everyTransport(t testing.TB, p *person, method, target string, headers [][2]string) map[string]int {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: edge-1.mesh.test\r\n", method, target)
	for _, h := range headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	if method == "POST" || method == "PUT" || method == "PATCH" {
		b.WriteString("Content-Length: 0\r\n")
	}
	b.WriteString("\r\n")
	codes := map[string]int{"h1": 0, "h2": 0}
	if res, _, _ := w.rawH1(t, p, b.String()); res != nil {
		codes["h1"] = res.StatusCode
	}
	fields := [][2]string{{":method", method}, {":scheme", "https"}, {":authority", "edge-1.mesh.test"}, {":path", target}}
	for _, h := range headers {
		fields = append(fields, [2]string{strings.ToLower(h[0]), h[1]})
	}
	codes["h2"], _ = w.rawH2(t, p, fields)
	return codes
}

// startH2 opens HTTP/2 on a connection.
func startH2(t testing.TB, c *tls.Conn) *http2.Framer {
	t.Helper()
	_, err := io.WriteString(c, http2.ClientPreface)
	must(t, err)
	fr := http2.NewFramer(c, c)
	must(t, fr.WriteSettings())
	return fr
}

// headerBlock is a GET whose encoding leaves no state behind.
func headerBlock(t testing.TB, path string) []byte {
	t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", path}} {
		must(t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}))
	}
	return block.Bytes()
}

// literal is one header field that is never indexed.
func literal(name string, value []byte) []byte {
	var block bytes.Buffer
	hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: name, Value: string(value), Sensitive: true})
	return block.Bytes()
}
