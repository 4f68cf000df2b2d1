package login

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
)

//go:embed templates assets
var files embed.FS

// pages renders the templates inside the layout.
type pages struct {
	name string
	tmpl map[string]*template.Template
}

func newPages(name string) (*pages, error) {
	p := &pages{name: name, tmpl: make(map[string]*template.Template)}
	for _, page := range []string{"login", "consent", "logout", "welcome", "done", "problem", "code", "device", "account", "second", "codes", "factor", "password", "passkeys"} {
		t, err := template.ParseFS(files, "templates/layout.html", "templates/setup.html", "templates/"+page+".html")
		if err != nil {
			return nil, fmt.Errorf("parsing page %s: %w", page, err)
		}
		p.tmpl[page] = t
	}
	return p, nil
}

// render writes a page. It is made whole first, so that no half of one is sent.
func (p *pages) render(w http.ResponseWriter, code int, page, title string, view any) {
	var b bytes.Buffer
	err := p.tmpl[page].ExecuteTemplate(&b, "layout.html", struct {
		Title, Coordinator string
		View               any
	}{title, p.name, view})
	if err != nil {
		http.Error(w, "this page cannot be shown", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	w.Write(b.Bytes()) //nolint:errcheck // the browser went away: nobody to tell
}

// asset serves one file: there is no directory to list or to climb out of.
func asset(path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=300")
		http.ServeFileFS(w, r, files, path)
	}
}

// contentPolicy allows what pages need. form-action holds for where a form's
// answer redirects to as well, and the last of those is the terminal's own
// listener.
const contentPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self' http://127.0.0.1:*; frame-ancestors 'none'; base-uri 'none'"

// headers keeps pages from being framed, sniffed, scripted or leaked.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		// Not no-referrer: forms would then carry "Origin: null".
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		next.ServeHTTP(w, r)
	})
}
