package component

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"
)

// lifelineGrace is how long a component may tidy up when its supervisor is gone. Etcd needs
// none, being made for it; the node kills what exec started.
const lifelineGrace = 2 * time.Second

// Lifeline returns a context that ends when the supervisor does, and makes sure that this
// process ends soon after.
func Lifeline(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		slog.Error("supervisor is gone")
		cancel()
		time.Sleep(lifelineGrace)
		os.Exit(1)
	}()
	return ctx
}

// LifelineHard ends this process at once when the supervisor is gone.
func LifelineHard() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		slog.Error("supervisor is gone")
		os.Exit(1)
	}()
}
