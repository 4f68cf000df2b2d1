package login

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

// public is every path of Hydra's that others may reach, with its methods.
// Client registration, health, version and Hydra's own fallback pages are not
// among them.
var public = []string{
	"GET /oauth2/auth",
	"POST /oauth2/auth",
	"POST /oauth2/token",
	"POST /oauth2/revoke",
	"GET /oauth2/sessions/logout",
	"GET /userinfo",
	"POST /userinfo",
	"GET /.well-known/openid-configuration",
	"GET /.well-known/jwks.json",
}

// PublicProxy serves Hydra's public endpoints at the coordinator's own address.
// It is also where a browser is given the cookie that ties a challenge to it.
func (a *App) PublicProxy() (http.Handler, error) {
	target, err := url.Parse(a.cfg.HydraPublic)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.ResponseHeaderTimeout = 30 * time.Second
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = a.url.Host
			// TLS ended here (the issuer is https). What a
			// client says of this, Rewrite has dropped already.
			r.Out.Header.Set("X-Forwarded-Proto", "https")
			r.Out.Header.Set("X-Forwarded-Host", a.url.Host)
			withoutOurCookies(r.Out)
		},
		ModifyResponse: a.modify,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			a.failure(w, r, hydraError("asking hydra", nil, err))
		},
	}
	mux := http.NewServeMux()
	for _, pattern := range public {
		mux.Handle(pattern, proxy)
	}
	return limitBody(mux), nil
}

// withoutOurCookies keeps to ourselves what is none of Hydra's.
func withoutOurCookies(r *http.Request) {
	cookies := r.Cookies()
	r.Header.Del("Cookie")
	for _, c := range cookies {
		if !strings.HasPrefix(c.Name, cookiePrefix) {
			r.AddCookie(c)
		}
	}
}

// modify looks at where Hydra sends the browser. To one of our questions: the
// browser gets the cookie for it. To a page of Hydra's own, which is not served:
// to ours instead.
func (a *App) modify(resp *http.Response) error {
	resp.Header.Del("Server")
	location := resp.Header.Get("Location")
	if location == "" {
		return nil
	}
	u, err := url.Parse(location)
	if err != nil || u.Host != "" && !strings.EqualFold(u.Host, a.url.Host) {
		return nil
	}
	switch u.Path {
	case "/login", "/consent":
		s := step(u.Path[1:])
		c, err := parseChallenge(s, u.Query().Get(s.param()))
		if err != nil {
			return err
		}
		resp.Header.Add("Set-Cookie", a.bind(c).String())
	case "/oauth2/fallbacks/error":
		resp.Header.Set("Location", "/error?"+url.Values{"error": {u.Query().Get("error")}}.Encode())
	case "/oauth2/fallbacks/logout/callback":
		resp.Header.Set("Location", "/logout")
	}
	return nil
}
