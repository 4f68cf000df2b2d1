package apiclient

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// HintHeader is where the coordinator puts what a person can do next about an
// error, in ASCII.
const HintHeader = "Sallyport-Hint"

// Explain turns what a call to the coordinator ended with into one line
// for a person, with a hint where there is one. The original stays wrapped, so
// that connect.CodeOf and errors.Is go on working. Explain of nil is nil.
func Explain(at string, err error) error {
	var (
		pin       *PinError
		unknown   x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		dns       *net.DNSError
		fromThere *connect.Error
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &pin):
		return process.Hint(say(err, "%s is not the coordinator that the login URL pins: %v", at, pin),
			"ask who runs it for the login URL; trust the other pin only if they name it")
	case errors.Is(err, pki.ErrPin):
		return process.Hint(say(err, "%s is not the coordinator that the login URL pins", at), "ask who runs it for the login URL")
	case errors.As(err, &unknown):
		return process.Hint(say(err, "the certificate of %s comes from a root that is not known here", at),
			"use the whole login URL, with #sha256:… at its end")
	case errors.As(err, &host):
		return process.Hint(say(err, "the certificate of %s is for another name: %v", at, host), "use the URL that the coordinator has as its public-url")
	case errors.As(err, &invalid):
		return process.Hint(say(err, "the certificate of %s is no good: %v", at, invalid), "is the clock of this machine right? If so, tell who runs the coordinator")
	case errors.Is(err, http.ErrSchemeMismatch):
		return process.Hint(say(err, "%s speaks plain HTTP, not TLS", at), "check the port: a coordinator serves TLS alone")
	case errors.As(err, &dns):
		return process.Hint(say(err, "cannot find %s: no such host", at), "check the name, and that this machine resolves names")
	case errors.Is(err, syscall.ECONNREFUSED):
		return process.Hint(say(err, "nothing listens at %s", at), "check the port, and that the coordinator runs")
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return process.Hint(say(err, "%s did not answer in time", at), "check that the coordinator runs and that a firewall lets you through")
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &fromThere) && connect.IsWireError(err):
		said := say(err, "%s", fromThere.Message())
		if hint := fromThere.Meta().Get(HintHeader); hint != "" {
			return process.Hint(said, hint)
		}
		return said
	case NotACoordinator(err):
		return process.Hint(say(err, "%s answers, but not as a Sallyport coordinator", at), "check the login URL")
	}
	return process.Hint(say(err, "cannot reach %s: %s", at, strings.TrimPrefix(err.Error(), connect.CodeOf(err).String()+": ")),
		"check the URL, and that the coordinator runs")
}

// NotACoordinator reports whether something answered that is no Connect service:
// another web server, for instance. A gateway that says that nobody is behind it
// (502 to 504) is not that.
func NotACoordinator(err error) bool {
	var e *connect.Error
	if !errors.As(err, &e) || connect.IsWireError(err) {
		return false
	}
	var redirect *redirectError
	if errors.As(err, &redirect) {
		return true
	}
	// An answer that broke off tells nothing about who gave it. The stream error of
	// net/http has no type that others could ask for.
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(e.Message(), "stream error: ") {
		return false
	}
	var transport *url.Error
	return !errors.As(err, &transport) && e.Code() != connect.CodeUnavailable &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// SessionOver reports whether err is the coordinator saying that this session
// may do nothing any more, as opposed to not being reachable for a while.
func SessionOver(err error) bool {
	if !connect.IsWireError(err) {
		return false
	}
	code := connect.CodeOf(err)
	return code == connect.CodeUnauthenticated || code == connect.CodePermissionDenied
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

type said struct {
	text string
	err  error
}

func (s said) Error() string { return s.text }
func (s said) Unwrap() error { return s.err }

func say(err error, format string, args ...any) error {
	return said{fmt.Sprintf(format, args...), err}
}
