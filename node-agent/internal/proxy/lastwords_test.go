package proxy

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func word(upgrade, protocol string) lastWord {
	h := http.Header{}
	h.Set("X-Stream-Protocol-Version", protocol)
	h.Set("Sec-Websocket-Protocol", protocol)
	return lastWordFor(upgrade, h)
}

var why = &metav1.Status{Status: "Failure", Message: "access ended", Code: 403}

func TestWebSocketLastWordStandsOnlyBetweenMessages(t *testing.T) {
	frame := func(first byte, payload int) []byte {
		out := []byte{first}
		switch {
		case payload < 126:
			out = append(out, byte(payload))
		case payload < 1<<16:
			out = binary.BigEndian.AppendUint16(append(out, 126), uint16(payload))
		default:
			out = binary.BigEndian.AppendUint64(append(out, 127), uint64(payload))
		}
		return append(out, make([]byte, payload)...)
	}
	for _, c := range []struct {
		name  string
		bytes []byte
		can   bool
	}{
		{"nothing", nil, true},
		{"one message", frame(0x82, 5), true},
		{"empty message", frame(0x82, 0), true},
		{"long messages", append(frame(0x82, 126), frame(0x82, 70_000)...), true},
		{"half a header", frame(0x82, 300)[:3], false},
		{"half a payload", frame(0x82, 300)[:200], false},
		{"a fragment", frame(0x02, 5), false},
		{"a fragment and a ping", append(frame(0x02, 5), frame(0x89, 2)...), false},
		{"fragments to the end", append(append(frame(0x02, 5), frame(0x89, 2)...), frame(0x80, 3)...), true},
		{"masked, against the rules", []byte{0x82, 0x81, 1, 2, 3, 4, 5}, true},
	} {
		for _, piece := range []int{1, 3, 1 << 20} {
			w := word(upgradeWebSocket, "v5.channel.k8s.io")
			for r := bytes.NewReader(c.bytes); ; {
				buf := make([]byte, piece)
				n, err := r.Read(buf)
				if err == io.EOF {
					break
				}
				w.apiserver(buf[:n])
			}
			if got := w.frame(why) != nil; got != c.can {
				t.Errorf("%s in pieces of %d: can speak %v, want %v", c.name, piece, got, c.can)
			}
		}
	}
}

func TestSPDYLastWordIsOnTheFirstStream(t *testing.T) {
	syn := []byte{0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0}
	settings := []byte{0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0}
	second := append([]byte(nil), syn...)
	second[11] = 9
	data := append([]byte{0, 0, 0, 7, 0, 0, 0, 3}, "abc"...)
	for _, piece := range []int{1, 5, 100} {
		w := word(upgradeSPDY, "v4.channel.k8s.io")
		if w.frame(why) != nil {
			t.Error("it speaks before there is a stream")
		}
		all := append(append(append([]byte(nil), settings...), syn...), second...)
		for len(all) > 0 {
			n := min(piece, len(all))
			w.client(all[:n])
			all = all[n:]
		}
		w.apiserver(data[:9])
		if w.frame(why) != nil {
			t.Error("it speaks inside a frame")
		}
		w.apiserver(data[9:])
		got := w.frame(why)
		if len(got) < 8 || binary.BigEndian.Uint32(got) != 7 || got[4] != 1 || int(got[7]) != len(got)-8 || !bytes.Contains(got, []byte("access ended")) {
			t.Errorf("frame %q", got)
		}
	}
}

func TestUnknownProtocolsEndInSilence(t *testing.T) {
	for _, w := range []lastWord{
		word(upgradeSPDY, "portforward.k8s.io"), word(upgradeSPDY, "v3.channel.k8s.io"),
		word(upgradeWebSocket, "base64.channel.k8s.io"), word(upgradeWebSocket, ""), word(upgradeWebSocket, "SPDY/3.1+portforward.k8s.io"),
	} {
		w.client([]byte("x"))
		w.apiserver([]byte("x"))
		if w.frame(why) != nil {
			t.Errorf("%T speaks", w)
		}
	}
}

func FuzzLastWord(f *testing.F) {
	f.Add([]byte{0x82, 1, 0}, []byte{0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, down, up []byte) {
		for _, w := range []lastWord{word(upgradeWebSocket, "v4.channel.k8s.io"), word(upgradeSPDY, "v4.channel.k8s.io")} {
			w.client(up)
			w.apiserver(down)
			w.frame(why)
		}
	})
}
