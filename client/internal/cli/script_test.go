package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport-mesh/sallyport/client/internal/clienttest"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sallyport": func() {
			process.Main("sallyport", func(ctx context.Context) error { return Run(ctx, "1.2.3", os.Args) })
		},
		// The person's browser: it goes where it is sent, once.
		"xdg-open": func() {
			process.Main("xdg-open", func(ctx context.Context) error { return browse(ctx, os.Args[1]) })
		},
	})
}

func browse(ctx context.Context, address string) error {
	root, err := os.ReadFile(os.Getenv("ROOT"))
	if err != nil {
		return err
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(address, "https://"), "/")
	client, err := apiclient.New(apiclient.Config{Link: pki.Link{URL: "https://" + host}, RootPEM: root})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: client.HTTP.Transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// The scripts run the built program against a coordinator of the test's own.
// $LOGIN is its login URL; $OTHER is a web server that is no coordinator.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			c := clienttest.Start(env.T().(testing.TB))
			other := c.Beside(env.T().(testing.TB), http.NotFoundHandler())
			// A socket's path has to be short.
			home, err := os.MkdirTemp("", "sp")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(home) })
			root := filepath.Join(env.WorkDir, "root.pem")
			if err := os.WriteFile(root, []byte(c.RootPEM), 0o600); err != nil {
				return err
			}
			for k, v := range map[string]string{
				"LOGIN": c.Link.String(), "URL": c.Link.URL, "PIN": c.Link.Pin, "OTHER": other.String(), "ROOT": root,
				"SALLYPORT_HOME": home, "KUBECONFIG": filepath.Join(env.WorkDir, "kubeconfig"), "DISPLAY": ":0",
				"HOME": env.WorkDir,
			} {
				env.Setenv(k, v)
			}
			env.Values[coordinatorKey{}] = c
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// coordinator away|back|suspends
			"coordinator": func(ts *testscript.TestScript, _ bool, args []string) {
				c := ts.Value(coordinatorKey{}).(*clienttest.Coordinator)
				switch strings.Join(args, " ") {
				case "away":
					c.Away(true)
				case "back":
					c.Away(false)
				case "refuses":
					c.Set(func(b *clienttest.Behaviour) {
						b.Refuse, b.RefuseBecause = "access_denied", "The resource owner denied the request"
					})
				case "issues seconds":
					c.Set(func(b *clienttest.Behaviour) { b.Session = 2 * time.Second })
				case "issues moments":
					c.Set(func(b *clienttest.Behaviour) { b.Session = 8 * time.Second })
				default:
					ts.Fatalf("coordinator does not know how to %v", args)
				}
			},
			// opens CLUSTER... makes these the clusters that are open.
			"opens": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Value(coordinatorKey{}).(*clienttest.Coordinator).Set(func(b *clienttest.Behaviour) {
					b.Clusters = nil
					for _, name := range args {
						b.Clusters = append(b.Clusters, &apiv1.ReachableCluster{
							Id: "cls-" + name, Name: name, Project: "aws", ServerName: name + "." + clienttest.OverlayDomain, Roles: []string{"edit"},
						})
					}
				})
			},
			// private FILE fails unless the file's mode is 0600.
			"private": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, f := range args {
					info, err := os.Stat(ts.MkAbs(f))
					ts.Check(err)
					if info.Mode().Perm() != 0o600 {
						ts.Fatalf("%s has mode %v", f, info.Mode())
					}
				}
			},
			// stops freezes the daemon of the home as a laptop's sleep does, continues
			// wakes it.
			"stops": func(ts *testscript.TestScript, _ bool, _ []string) {
				pid, err := daemonOf(ts.Getenv("SALLYPORT_HOME"))
				ts.Check(err)
				ts.Setenv("DAEMON", strconv.Itoa(pid))
				ts.Check(syscall.Kill(pid, syscall.SIGSTOP))
			},
			"continues": func(ts *testscript.TestScript, _ bool, _ []string) {
				pid, err := strconv.Atoi(ts.Getenv("DAEMON"))
				ts.Check(err)
				ts.Check(syscall.Kill(pid, syscall.SIGCONT))
			},
			// waits STATE PROBLEM waits until the daemon says so of itself.
			"waits": func(ts *testscript.TestScript, _ bool, args []string) {
				h, err := hereIn(ts.Getenv("SALLYPORT_HOME"), "")
				ts.Check(err)
				for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
					st, err := h.daemon.Status(context.Background())
					if err == nil && string(st.State) == args[0] && strings.HasPrefix(st.Problem, args[1]) {
						return
					}
					if time.Now().After(deadline) {
						ts.Fatalf("the daemon is %s: %s (%v)", st.State, st.Problem, err)
					}
				}
			},
			// killed ends the daemon of the home as kill -9 does.
			"killed": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Check(kill(ts.Getenv("SALLYPORT_HOME")))
			},
		},
	})
}

type coordinatorKey struct{}

func daemonOf(home string) (pid int, err error) {
	h, err := hereIn(home, "")
	if err != nil {
		return 0, err
	}
	st, err := h.daemon.Status(context.Background())
	return st.PID, err
}

func kill(home string) error {
	pid, err := daemonOf(home)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("killing the daemon: %w", err)
	}
	h, err := hereIn(home, "")
	if err != nil {
		return err
	}
	return h.gone(context.Background())
}
