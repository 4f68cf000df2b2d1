package dev

import "errors"

type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// withHint adds the next step to an error.
func withHint(err error, hint string) error { return &hinted{err, hint} }

// Hint is the next step that err names, or empty.
func Hint(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}
