package dev

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/go-jose/go-jose/v3"
)

// idTokenKeys is the set that Hydra signs ID tokens with. It would make one itself when it is
// first asked for, of 4096 bits, which takes it seconds, and a minute on a busy machine: too long
// for a test that starts a Hydra of its own. Ours has 2048.
const idTokenKeys = "hydra.openid.id-token"

func ensureKeys(ctx context.Context, admin *http.Client) error {
	const address = "http://admin/admin/keys/" + idTokenKeys
	var held jose.JSONWebKeySet
	status, err := exchange(ctx, admin, http.MethodGet, address, nil, &held)
	if err != nil {
		return err
	}
	if status == http.StatusOK && len(held.Keys) > 0 {
		return nil
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("making key: %w", err)
	}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{
		Key: key, KeyID: rand.Text(), Algorithm: string(jose.RS256), Use: "sig",
	}}}
	status, err = exchange(ctx, admin, http.MethodPut, address, set, nil)
	if err == nil && status != http.StatusOK {
		err = errors.New(http.StatusText(status))
	}
	if err != nil {
		return fmt.Errorf("storing key: %w", err)
	}
	return nil
}

// exchange sends and takes JSON; an answer that is not a success leaves answer as it was.
func exchange(ctx context.Context, client *http.Client, method, address string, body, answer any) (status int, err error) {
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return 0, fmt.Errorf("encoding request: %w", err)
		}
		content = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil {
		return 0, fmt.Errorf("making request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if answer != nil && resp.StatusCode/100 == 2 {
		if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
			return 0, fmt.Errorf("reading answer: %w", err)
		}
	}
	return resp.StatusCode, nil
}
