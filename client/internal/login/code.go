package login

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"time"

	"golang.org/x/oauth2"

	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// approved logs in with a code that is approved in a browser elsewhere
// (RFC 8628). What is approved is this device's key: the token is worth nothing
// without it.
func (f *flow) approved(ctx context.Context) (*profile.Profile, error) {
	if f.discover.GetDeviceAuthorizationUrl() == "" {
		return nil, process.Hint(errors.New("this coordinator is too old to log in with a code"), "sallyport login --print-url")
	}
	if !f.here(f.discover.GetDeviceAuthorizationUrl()) || !f.here(f.discover.GetDeviceTokenUrl()) {
		return nil, fmt.Errorf("%s sends logins elsewhere", f.Link.URL)
	}
	key, err := f.Home.DeviceKey()
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encoding the device's key: %w", err)
	}
	sum := sha256.Sum256(public)
	o := oauth2.Config{ClientID: f.discover.GetClientId(), Endpoint: oauth2.Endpoint{
		DeviceAuthURL: f.discover.GetDeviceAuthorizationUrl(), TokenURL: f.discover.GetDeviceTokenUrl(), AuthStyle: oauth2.AuthStyleInParams,
	}}
	httpCtx := context.WithValue(ctx, oauth2.HTTPClient, &http.Client{
		Transport: f.client.HTTP.Transport, CheckRedirect: f.client.HTTP.CheckRedirect, Timeout: 30 * time.Second,
	})
	asked, err := o.DeviceAuth(httpCtx,
		oauth2.SetAuthURLParam("device_key", hex.EncodeToString(sum[:])),
		oauth2.SetAuthURLParam("device_name", hostname()),
		oauth2.SetAuthURLParam("device_os", runtime.GOOS))
	if err != nil {
		return nil, f.refusedCode(err)
	}
	if !f.here(asked.VerificationURI) {
		return nil, fmt.Errorf("%s sends logins elsewhere", f.Link.URL)
	}
	fmt.Fprintf(f.Terminal, "To log in to %s, open this in a browser on any machine:\n\n%s\n\nand type this code there:\n\n%s\n\n",
		first(f.discover.GetName(), f.Link.URL), asked.VerificationURI, asked.UserCode)
	if left := time.Until(asked.Expiry); !asked.Expiry.IsZero() && left > 0 {
		fmt.Fprintf(f.Terminal, "It is good for %d minutes, and for this device alone.\n", int(left.Round(time.Minute).Minutes()))
	}
	token, err := f.poll(httpCtx, o, asked)
	if err != nil {
		return nil, err
	}
	return f.enroll(ctx, token)
}

// poll asks until somebody answered. A coordinator that is away for a moment
// ends nothing: the code waits there, and this waits here.
func (f *flow) poll(ctx context.Context, o oauth2.Config, asked *oauth2.DeviceAuthResponse) (string, error) {
	for {
		token, err := o.DeviceAccessToken(ctx, asked)
		if err == nil {
			return token.AccessToken, nil
		}
		refused, answered := errors.AsType[*oauth2.RetrieveError](err)
		over := !asked.Expiry.IsZero() && !time.Now().Before(asked.Expiry)
		switch {
		case ctx.Err() != nil:
			return "", fmt.Errorf("waiting for the approval: %w", ctx.Err())
		case over:
			return "", f.refusedCode(&oauth2.RetrieveError{ErrorCode: "expired_token"})
		case answered && refused.ErrorCode != "" && refused.ErrorCode != "temporarily_unavailable":
			return "", f.refusedCode(err)
		}
		// DeviceAccessToken waits before each question, so this does not spin.
	}
}

// refusedCode says what became of a code.
func (f *flow) refusedCode(err error) error {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return apiclient.Explain(f.Link.URL, err)
	}
	again := "sallyport login --no-browser, to try again"
	switch refused.ErrorCode {
	case "access_denied":
		return process.Hint(errors.New("the login was refused: "+first(sentence(refused.ErrorDescription), "this device was denied")), again)
	case "expired_token":
		return process.Hint(errors.New("nobody approved the code in time"), again)
	}
	return fmt.Errorf("the login failed: %s", sentence(first(refused.ErrorDescription, refused.ErrorCode, "the coordinator did not say why")))
}

// hostname is what this device calls itself.
func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "device"
	}
	return host
}
