package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crilogs "k8s.io/cri-client/pkg/logs"
)

// logs serves kubectl logs from the container's log file, with the kubelet's own reader.
func (k *kubelet) logs(w http.ResponseWriter, r *http.Request) {
	c, err := k.containers.get(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"))
	if err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	opts, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if opts.Previous {
		http.Error(w, fmt.Sprintf("previous terminated container %q in pod %q not found", c.name, c.pod), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	if opts.Follow {
		c.follow(+1)
		defer c.follow(-1)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	out := &flushing{w: w, flush: http.NewResponseController(w)}
	// A follower gets the headers now, not with the first line.
	_ = out.flush.Flush()
	err = crilogs.ReadLogs(ctx, c.logPath, "", readerOptions(opts), alwaysRunning{}, out, out)
	if err != nil && !errors.Is(err, context.Canceled) {
		slog.Warn("reading container log failed", "pod", c.namespace+"/"+c.pod, "err", err)
	}
}

func readerOptions(o *corev1.PodLogOptions) *crilogs.LogOptions {
	out := &crilogs.LogOptions{
		TailLines:  o.TailLines,
		LimitBytes: o.LimitBytes,
		Follow:     o.Follow,
		Timestamp:  o.Timestamps,
	}
	if o.SinceSeconds != nil {
		out.Since = time.Now().Add(-time.Duration(*o.SinceSeconds) * time.Second)
	}
	if o.SinceTime != nil && o.SinceTime.After(out.Since) {
		out.Since = o.SinceTime.Time
	}
	return out
}

func (c *container) follow(n int) {
	c.mu.Lock()
	c.readers += n
	c.mu.Unlock()
}

// logOptions reads the query the apiserver sends, which is corev1.PodLogOptions.
func logOptions(q url.Values) (*corev1.PodLogOptions, error) {
	o := &corev1.PodLogOptions{}
	for key, set := range map[string]func(string) error{
		"follow":       func(s string) (err error) { o.Follow, err = strconv.ParseBool(s); return },
		"previous":     func(s string) (err error) { o.Previous, err = strconv.ParseBool(s); return },
		"timestamps":   func(s string) (err error) { o.Timestamps, err = strconv.ParseBool(s); return },
		"tailLines":    func(s string) error { return parseInt(s, &o.TailLines) },
		"limitBytes":   func(s string) error { return parseInt(s, &o.LimitBytes) },
		"sinceSeconds": func(s string) error { return parseInt(s, &o.SinceSeconds) },
		"sinceTime": func(s string) error {
			t, err := time.Parse(time.RFC3339, s)
			o.SinceTime = &metav1.Time{Time: t}
			return err
		},
	} {
		if v := q.Get(key); v != "" {
			if err := set(v); err != nil {
				return nil, fmt.Errorf("reading %s: %w", key, err)
			}
		}
	}
	return o, nil
}

func parseInt(s string, to **int64) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && n < 0 {
		err = errors.New("negative")
	}
	*to = &n
	return err
}

type flushing struct {
	w     io.Writer
	flush *http.ResponseController
}

func (f *flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, f.flush.Flush()
}

// alwaysRunning tells the reader to go on following: the end of the container ends the
// context instead.
type alwaysRunning struct{ criapi.RuntimeService }

func (alwaysRunning) ContainerStatus(context.Context, string, bool) (*runtimeapi.ContainerStatusResponse, error) {
	return nil, status.Error(codes.Unavailable, "container state is not kept")
}
