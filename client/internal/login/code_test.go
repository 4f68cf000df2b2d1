package login

import (
	"strings"
	"testing"

	"github.com/sallyport-mesh/sallyport/client/internal/clienttest"
)

func withCode(c *Config) { c.Code = true }

// TestCodeIsShownAndWaitedFor holds that the address and the code stand alone on
// a line each, and that a coordinator that is away for a moment ends nothing.
func TestCodeIsShownAndWaitedFor(t *testing.T) {
	t.Parallel()
	c := clienttest.Start(t)
	c.Set(func(b *clienttest.Behaviour) { b.Code = []string{"authorization_pending", "away"} })
	a := try(t, c, c.Link, withCode)
	if a.err != nil {
		t.Fatal(a.err)
	}
	for _, line := range []string{c.Link.URL + "/device", "BCDF-GHJK"} {
		if !strings.Contains("\n"+a.terminal, "\n"+line+"\n") {
			t.Errorf("%q is not alone on a line:\n%s", line, a.terminal)
		}
	}
	if a.profile.Session.UserName != "shivam" {
		t.Errorf("%+v", a.profile.Session)
	}
}

func TestCodeThatIsNotApprovedLeavesNothing(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		"access_denied": "the login was refused: this device was denied",
		"expired_token": "nobody approved the code in time",
		"invalid_grant": "the login failed: invalid_grant",
	} {
		t.Run(answer, func(t *testing.T) {
			t.Parallel()
			c := clienttest.Start(t)
			c.Set(func(b *clienttest.Behaviour) { b.Code = []string{answer} })
			a := try(t, c, c.Link, withCode)
			a.leftNothing(t)
			if a.err == nil || a.err.Error() != want {
				t.Errorf("%v, want %q", a.err, want)
			}
		})
	}
}
