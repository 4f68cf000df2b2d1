package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// Config is what the node needs to be started.
type Config struct {
	// Name of the Node object, which must exist.
	Name string
	// Kubeconfig with which the node speaks to the apiserver.
	Kubeconfig string
	// Dir takes the containers' directories and logs.
	Dir string
	// Listener takes the apiserver's connections; its port is announced in the node's status.
	Listener net.Listener
	// CertFile and KeyFile are the node's serving certificate.
	CertFile, KeyFile string
	// ClientCAFile is the CA whose client certificates are let in, and ClientName the common
	// name they must carry: the apiserver's kubelet client, nobody else.
	ClientCAFile, ClientName string
}

const (
	streamIdle     = 4 * time.Hour // the kubelet's own default
	streamCreation = 30 * time.Second
)

// Run serves the node until ctx ends.
func Run(ctx context.Context, c Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tlsConfig, err := serverTLS(c)
	if err != nil {
		return err
	}
	addr, ok := c.Listener.Addr().(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("listening: %v is not a TCP address", c.Listener.Addr())
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("making node directory: %w", err)
	}
	pods, err := startKwok(ctx, c, addr.Port)
	if err != nil {
		return err
	}
	k := &kubelet{
		containers: newContainers(ctx, c.Dir, pods),
		responder:  newResponder(ctx),
	}
	defer k.containers.wait()
	defer cancel()
	srv := &http.Server{
		Handler:           k.routes(),
		TLSConfig:         tlsConfig,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // SPDY upgrades need HTTP/1.1
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	go func() {
		<-ctx.Done()
		_ = srv.Close()
	}()
	slog.Info("node is serving", "node", c.Name, "address", addr.String())
	if err := srv.ServeTLS(c.Listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving kubelet API: %w", err)
	}
	return nil
}

func serverTLS(c Config) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("loading serving certificate: %w", err)
	}
	pem, err := os.ReadFile(c.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("reading client CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading client CA: no certificate in %s", c.ClientCAFile)
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{cert},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              pool,
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if got := s.PeerCertificates[0].Subject.CommonName; got != c.ClientName {
				return fmt.Errorf("client %q is not the apiserver", got)
			}
			return nil
		},
	}, nil
}

type kubelet struct {
	containers *containers
	responder  *responder
}

// routes are the kubelet's paths that the apiserver asks for: kubectl exec, attach, logs and
// port-forward end here.
func (k *kubelet) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		k.stream(w, r, func(c *container, o *remotecommand.Options) {
			remotecommand.ServeExec(w, r, c, c.pod, c.uid, c.name, r.URL.Query()["command"],
				o, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
		})
	})
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		k.stream(w, r, func(c *container, o *remotecommand.Options) {
			remotecommand.ServeAttach(w, r, c, c.pod, c.uid, c.name,
				o, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
		})
	})
	mux.HandleFunc("/portForward/{namespace}/{pod}", k.portForward)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.logs)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	return mux
}

func (k *kubelet) stream(w http.ResponseWriter, r *http.Request, serve func(*container, *remotecommand.Options)) {
	c, err := k.containers.get(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"))
	if err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	serve(c, opts)
}

func (k *kubelet) portForward(w http.ResponseWriter, r *http.Request) {
	pod, err := k.containers.pods.get(r.Context(), r.PathValue("namespace"), r.PathValue("pod"))
	if err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, k.responder, pod.Namespace+"/"+pod.Name, string(pod.UID),
		opts, streamIdle, streamCreation, portforward.SupportedProtocols)
}

func statusOf(err error) int {
	if errors.Is(err, errNotFound) {
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}
