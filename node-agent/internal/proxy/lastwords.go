package proxy

import (
	"encoding/binary"
	"encoding/json"
	"net/http"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A cut exec must not look like one that succeeded, and over SPDY it would:
// client-go takes an error stream that ends without a word for success. So the
// tunnel, which passes bytes and does not read them, counts frames, and where a
// cut finds it between two of them it appends one of ours: the error channel's,
// saying why.

// lastWord follows the framing of an upgraded connection. client and apiserver
// are called from one goroutine each.
type lastWord interface {
	client(p []byte)    // bytes on their way to the apiserver
	apiserver(p []byte) // bytes on their way to the client
	// frame is what ends the connection with words, or nil where it cannot be
	// said now. Nobody calls client or apiserver any more.
	frame(why *metav1.Status) []byte
}

// lastWordFor knows the protocols of exec and attach. Others end in silence,
// which is no success to them.
func lastWordFor(upgrade string, res http.Header) lastWord {
	if upgrade == upgradeSPDY {
		switch res.Get("X-Stream-Protocol-Version") {
		case "v4.channel.k8s.io", "v5.channel.k8s.io":
			return &spdyWord{}
		}
		return silence{}
	}
	switch res.Get("Sec-Websocket-Protocol") {
	case "v4.channel.k8s.io", "v5.channel.k8s.io":
		return &webSocketWord{}
	}
	return silence{}
}

type silence struct{}

func (silence) client([]byte)               {}
func (silence) apiserver([]byte)            {}
func (silence) frame(*metav1.Status) []byte { return nil }

// frames walks over frames without keeping them: need says how long the header
// is (0: more bytes are needed to know) and how long the payload behind it.
type frames struct {
	header []byte
	left   uint64 // of the payload
	parse  func(header []byte) (complete bool, payload uint64)
}

func (f *frames) walk(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, uint64(len(p)))
			f.left -= n
			p = p[n:]
			continue
		}
		f.header = append(f.header, p[0])
		p = p[1:]
		if complete, payload := f.parse(f.header); complete {
			f.header, f.left = f.header[:0], payload
		}
	}
}

func (f *frames) between() bool { return f.left == 0 && len(f.header) == 0 }

// webSocketWord speaks RFC 6455 as the server.
type webSocketWord struct {
	frames
	open bool // a message is still to be continued
}

func (w *webSocketWord) client([]byte) {}

func (w *webSocketWord) apiserver(p []byte) {
	if w.parse == nil {
		w.parse = w.header
	}
	w.walk(p)
}

func (w *webSocketWord) header(h []byte) (bool, uint64) {
	if len(h) < 2 {
		return false, 0
	}
	size, payload := 2, uint64(h[1]&0x7f)
	switch payload {
	case 126:
		size = 4
	case 127:
		size = 10
	}
	masked := h[1]&0x80 != 0
	if masked {
		size += 4
	}
	if len(h) < size {
		return false, 0
	}
	switch h[1] & 0x7f {
	case 126:
		payload = uint64(binary.BigEndian.Uint16(h[2:]))
	case 127:
		payload = binary.BigEndian.Uint64(h[2:])
	}
	if opcode := h[0] & 0x0f; opcode < 8 { // control frames may stand between fragments
		w.open = h[0]&0x80 == 0
	}
	return true, payload
}

func (w *webSocketWord) frame(why *metav1.Status) []byte {
	if !w.between() || w.open {
		return nil
	}
	status, err := json.Marshal(why)
	if err != nil || len(status) > 0xfff0 {
		return nil
	}
	// client-go reads the error channel to its end only if the end is a normal one.
	const errorChannel, binaryFrame, closeFrame, normalClosure = 3, 0x82, 0x88, 1000
	out := []byte{binaryFrame, 126}
	out = binary.BigEndian.AppendUint16(out, uint16(len(status)+1))
	out = append(out, errorChannel)
	out = append(out, status...)
	out = append(out, closeFrame, 2)
	return binary.BigEndian.AppendUint16(out, normalClosure)
}

// spdyWord speaks SPDY/3.1. The error stream is the first that a client opens:
// client-go has always done so, and on another stream our words would only be
// the last output of a command that has been cut off.
type spdyWord struct {
	up, down frames
	first    atomic.Uint32 // the error stream's id
}

func (s *spdyWord) client(p []byte) {
	if s.first.Load() != 0 {
		return
	}
	if s.up.parse == nil {
		s.up.parse = func(h []byte) (bool, uint64) {
			const synStream, withID = 1, 12
			if len(h) < 8 {
				return false, 0
			}
			payload := uint64(h[5])<<16 | uint64(h[6])<<8 | uint64(h[7])
			if h[0]&0x80 == 0 || binary.BigEndian.Uint16(h[2:]) != synStream || payload < 4 {
				return true, payload
			}
			if len(h) < withID {
				return false, 0
			}
			s.first.CompareAndSwap(0, binary.BigEndian.Uint32(h[8:])&0x7fffffff)
			return true, payload - 4
		}
	}
	s.up.walk(p)
}

func (s *spdyWord) apiserver(p []byte) {
	if s.down.parse == nil {
		s.down.parse = func(h []byte) (bool, uint64) {
			if len(h) < 8 {
				return false, 0
			}
			return true, uint64(h[5])<<16 | uint64(h[6])<<8 | uint64(h[7])
		}
	}
	s.down.walk(p)
}

func (s *spdyWord) frame(why *metav1.Status) []byte {
	id := s.first.Load()
	if id == 0 || !s.down.between() {
		return nil
	}
	status, err := json.Marshal(why)
	if err != nil || len(status) > 0xffff {
		return nil
	}
	const last = 1
	out := binary.BigEndian.AppendUint32(nil, id)
	out = binary.BigEndian.AppendUint32(out, last<<24|uint32(len(status)))
	return append(out, status...)
}
