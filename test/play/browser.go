package play

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/sallyport-mesh/sallyport/coordinator/coordinatortest"
)

// submitLogin does in a browser what the person would at the address that
// `sallyport login` printed, ending at the loopback page of the command that
// waits.
func submitLogin(ctx context.Context, address string, root *x509.Certificate, name, password string) error {
	roots := x509.NewCertPool()
	roots.AddCert(root)
	browser, err := coordinatortest.NewBrowser(&tls.Config{RootCAs: roots})
	if err != nil {
		return err
	}
	page, err := browser.LogIn(ctx, address, name, password)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(page.URL.Path, "/callback") {
		return fmt.Errorf("login ended at %s%s: %s", page.URL.Host, page.URL.Path, page.Text)
	}
	return nil
}
