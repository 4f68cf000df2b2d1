package proxy_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/proxy"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// A revocation finds a request that waits in a step before forwarding, and not
// a byte of it goes upstream.
func TestRevokedWhileWaitingInAnEarlierStep(t *testing.T) {
	for _, how := range []string{"cut", "policy changed, not cut yet"} {
		for _, step := range []string{"intent", "mint"} {
			for _, target := range []string{pods, execTarget} {
				t.Run(how+" "+step+" "+target, func(t *testing.T) {
					w := newWorld(t)
					p := w.person("shivam", "edit")
					arrived, leave := make(chan struct{}), make(chan struct{})
					wait := func() { close(arrived); <-leave }
					if step == "intent" {
						w.log.hook(func(context.Context, *audit.Event) error { wait(); return nil })
					} else {
						w.accounts.hook(func(_ context.Context, s policy.Subject, _ policy.Attributes) (proxy.Credential, error) {
							wait()
							return proxy.Credential{Token: tokenOf(s.UserID)}, nil
						})
					}
					upgrade := ""
					if target == execTarget {
						upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
					}
					done := make(chan *http.Response, 1)
					go func() {
						res, _, _ := w.rawH1(t, p, "GET "+target+" HTTP/1.1\r\nHost: x\r\n"+upgrade+"\r\n")
						done <- res
					}()
					<-arrived
					if how == "cut" {
						w.cut(t, p, 1)
					} else {
						w.publish(suspend(p))
					}
					close(leave)
					res := <-done
					if res == nil || res.StatusCode != 403 {
						t.Fatalf("answer %+v", res)
					}
					w.upstream.untouched(t)
					if e := w.log.outcome(t, 0); e.ResponseStatus.Code != 403 {
						t.Errorf("outcome %+v", e)
					}
				})
			}
		}
	}
}
