package component

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// Etcd listens on unix sockets in the cluster's directory, because it asks nobody for a
// password. They are relative to it because the path of a socket must fit into 108 bytes.
const (
	EtcdSocket   = "etcd.sock"
	EtcdEndpoint = "unix://" + EtcdSocket
	peerSocket   = "etcd-peer.sock"
)

// EtcdSockets are all it makes.
var EtcdSockets = []string{EtcdSocket, peerSocket}

// etcdAnnounced is what etcd would tell peers and clients that ask it for its addresses. It
// insists on one with a port; there are no peers, and the apiserver does not ask.
const etcdAnnounced = "unix://devcluster:0"

// Etcd runs a single member in dir until ctx ends. It does not sync to disk: the data survives
// the death of every process but not that of the machine, which is what a test needs.
func Etcd(ctx context.Context, dir string) error {
	client, err := url.Parse(EtcdEndpoint)
	if err != nil {
		return fmt.Errorf("parsing client URL: %w", err)
	}
	peer, err := url.Parse("unix://" + peerSocket)
	if err != nil {
		return fmt.Errorf("parsing peer URL: %w", err)
	}
	announced, err := url.Parse(etcdAnnounced)
	if err != nil {
		return fmt.Errorf("parsing announced URL: %w", err)
	}
	cfg := embed.NewConfig()
	cfg.Name = "devcluster"
	cfg.Dir = dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*announced}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*announced}
	cfg.InitialCluster = cfg.Name + "=" + etcdAnnounced
	cfg.UnsafeNoFsync = true
	cfg.LogLevel = "warn"
	cfg.WarningUnaryRequestDuration = time.Second // the zero value warns about every request
	cfg.QuotaBackendBytes = 1 << 30
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "periodic", "10m"
	cfg.EnableGRPCGateway = false
	cfg.StrictReconfigCheck = false
	// One member elects itself: it need not wait as long as a quorum would.
	cfg.TickMs, cfg.ElectionMs = 50, 500
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("starting etcd: %w", err)
	}
	defer etcd.Close()
	select {
	case <-etcd.Server.ReadyNotify():
	case <-etcd.Server.StopNotify():
		return errors.New("etcd stopped while starting")
	case <-ctx.Done():
		return nil
	case <-time.After(time.Minute):
		return errors.New("etcd was not ready within a minute")
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-etcd.Err():
		return fmt.Errorf("serving etcd: %w", err)
	case <-etcd.Server.StopNotify():
		return errors.New("etcd stopped by itself")
	}
}
