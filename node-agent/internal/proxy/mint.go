package proxy

import (
	"errors"
	"strings"
)

// Step 6, mint: the request goes on as the person's own service account.

func (x *exchange) mint() *refusal {
	c, err := x.p.cfg.Accounts.Token(x.ctx, x.subject, x.reading.attrs)
	if err != nil {
		if why := x.entry.ended(); why != nil {
			return why
		}
		if errors.Is(err, ErrNotEntitled) {
			f := forbidden("what you hold here gives you nothing now: no namespace has the labels that it selects, or the cluster's owner allows none of it through Sallyport")
			f.next = nextStatus + "; " + nextAsk
			return f
		}
		x.p.log.Error("preparing an account failed", "request", x.id, "user", x.subject.UserID, "error", err)
		return unavailable("the cluster could not prepare your account; try again in a moment")
	}
	if !usableToken(c.Token) {
		x.p.log.Error("an account came without a usable token", "request", x.id, "user", x.subject.UserID)
		return unavailable("the cluster could not prepare your account; try again in a moment")
	}
	x.credential = c
	return nil
}

// usableToken holds a token to RFC 6750's b64token. Nothing may go upstream
// without one: it would be anonymous at best.
func usableToken(token string) bool {
	return token != "" && strings.Trim(token,
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=") == ""
}
