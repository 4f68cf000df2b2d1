package status

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/login"
	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
)

func TestErrorGetsItsCodeItsWordsAndItsHint(t *testing.T) {
	for _, test := range []struct {
		err        error
		code       connect.Code
		text, hint string
	}{
		{&directory.NotFoundError{Kind: "user", Ref: "ann"}, connect.CodeNotFound, `no user "ann"`, "sallyportctl user list"},
		{&directory.ExistsError{Kind: "cluster", Name: "edge-1"}, connect.CodeAlreadyExists, `cluster "edge-1" exists already`, "sallyportctl cluster list"},
		{&directory.InvalidError{Field: "expiry", Reason: "is in the past", Hint: "leave it out"}, connect.CodeInvalidArgument, "expiry: is in the past", "leave it out"},
		{directory.ErrSuspended, connect.CodePermissionDenied, "this account is suspended", "ask an administrator"},
		{&directory.TokenError{Kind: "join token", Problem: directory.TokenUsed}, connect.CodePermissionDenied, "was used already", "sallyportctl cluster token"},
		{&directory.BackoffError{RetryAfter: time.Second}, connect.CodeResourceExhausted, "try again in 1s", ""},
		{login.ErrUnavailable, connect.CodeUnavailable, login.ErrUnavailable.Error(), ""},
		{context.Canceled, connect.CodeCanceled, "context canceled", ""},
	} {
		for _, err := range []error{test.err, fmt.Errorf("doing it: %w", test.err)} {
			var e *connect.Error
			if !errors.As(Of(err), &e) {
				t.Fatalf("%v did not become a status", err)
			}
			hint := e.Meta().Get(apiclient.HintHeader)
			if e.Code() != test.code || !strings.Contains(e.Message(), test.text) || !strings.Contains(hint, test.hint) || test.hint == "" && hint != "" {
				t.Errorf("%v became %s %q with the hint %q", err, e.Code(), e.Message(), hint)
			}
		}
	}
	if Of(nil) != nil {
		t.Error("no error became a status")
	}
}

func TestWhatBrokeInsideIsNotSaid(t *testing.T) {
	var e *connect.Error
	if !errors.As(Of(errors.New("open /var/lib/sallyport/state: secret detail")), &e) {
		t.Fatal("no status")
	}
	hint := e.Meta().Get(apiclient.HintHeader)
	if e.Code() != connect.CodeInternal || strings.Contains(e.Message()+hint, "secret") || !strings.Contains(hint, "log says what, under id=") {
		t.Errorf("%s %q, hint %q", e.Code(), e.Message(), hint)
	}
}

func TestNobodyIsToldWhy(t *testing.T) {
	for _, test := range []struct {
		refused error
		text    string
	}{
		{nil, "this call takes a user's certificate"},
		{directory.ErrSuspended, "suspended"},
		{caller.ErrNone, "no client certificate"},
	} {
		var e *connect.Error
		if !errors.As(Unauthenticated(&caller.Caller{Refused: test.refused}, "a user's certificate"), &e) {
			t.Fatal("no status")
		}
		if e.Code() != connect.CodeUnauthenticated || !strings.Contains(e.Message(), test.text) || e.Meta().Get(apiclient.HintHeader) == "" {
			t.Errorf("%v: %s %q %v", test.refused, e.Code(), e.Message(), e.Meta())
		}
	}
}
