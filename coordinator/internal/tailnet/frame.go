package tailnet

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/util/zstdframe"
)

// keepAlive is the frame that clients recognise without decoding it, if it is
// exactly this.
var (
	keepAlivePlain = []byte(`{"KeepAlive":true}`)
	keepAliveZstd  = zstdframe.AppendEncode(nil, keepAlivePlain, zstdframe.FastestCompression)
)

// frameWriter writes map responses: a little-endian length of four bytes, then
// JSON, compressed by zstd where the client asked for it. Each frame must get
// out in writeTime, or the stream ends: the client's, and nobody else's.
type frameWriter struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	compress bool
}

func newFrameWriter(w http.ResponseWriter, compress bool) *frameWriter {
	return &frameWriter{w, http.NewResponseController(w), compress}
}

func (f *frameWriter) send(res *tailcfg.MapResponse) error {
	b, err := json.Marshal(res)
	if err != nil {
		return fmt.Errorf("encoding map: %w", err)
	}
	if f.compress {
		b = zstdframe.AppendEncode(nil, b, zstdframe.FastestCompression)
	}
	return f.write(b)
}

func (f *frameWriter) sendKeepAlive() error {
	if f.compress {
		return f.write(keepAliveZstd)
	}
	return f.write(keepAlivePlain)
}

func (f *frameWriter) write(payload []byte) error {
	// The deadline resets the stream when it passes, written or not, so it is
	// taken away again between frames.
	if err := f.rc.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	frame := make([]byte, 4, 4+len(payload))
	binary.LittleEndian.PutUint32(frame, uint32(len(payload)))
	if _, err := f.w.Write(append(frame, payload...)); err != nil {
		return err
	}
	if err := f.rc.Flush(); err != nil {
		return err
	}
	return f.rc.SetWriteDeadline(time.Time{})
}
