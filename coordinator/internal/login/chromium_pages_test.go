package login

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// TestPersonApprovesADeviceWithChromium goes to the account pages as a person
// does: a second factor from the QR code on the page, then a device that waits
// with a code. No scripts, real cookies, real form-action rules.
func TestPersonApprovesADeviceWithChromium(t *testing.T) {
	f := newFixture(t, withProvider())
	d := newDevice(t)
	ctx := chromium(t)
	var secret, shown, facts, done, account string
	var drawn bool
	err := chromedp.Do(ctx,
		noScripts(),
		chromedp.Navigate(front.server.URL+"/account/second-factor"),
		chromedp.SendKeys(chromedp.CSS("#username"), "shivam"),
		shoot("login-provider"),
		chromedp.SendKeys(chromedp.CSS("#password"), password+"\r"),
		chromedp.WaitVisible(chromedp.CSS("svg.qr")),
		save(&secret, chromedp.Text(chromedp.CSS(".secret"))),
		save(&drawn, chromedp.Evaluate[bool](`document.querySelector("svg.qr path").getBBox().width > 20`)),
		shoot("factor"),
	)
	if err != nil {
		t.Fatal(err)
	}
	secret = strings.ReplaceAll(secret, " ", "")
	err = chromedp.Do(ctx,
		chromedp.SendKeys(chromedp.CSS("#code"), f.codeNow(secret)+"\r"),
		chromedp.WaitVisible(chromedp.CSS("pre.codes")),
		save(&shown, chromedp.Text(chromedp.CSS("pre.codes"))),
		shoot("codes"),
		chromedp.Navigate(front.server.URL+"/account"),
		save(&account, chromedp.Text(chromedp.CSS("main"))),
		shoot("account"),
		chromedp.Navigate(front.server.URL+"/device"),
		shoot("device-code"),
		chromedp.SendKeys(chromedp.CSS("#code"), strings.ToLower(d.UserCode)+"\r"),
		chromedp.WaitVisible(chromedp.CSS("button[value=approve]")),
		save(&facts, chromedp.Text(chromedp.CSS("dl"))),
		shoot("device-approve"),
		chromedp.Click(chromedp.CSS("button[value=approve]")),
		save(&done, chromedp.Text(chromedp.CSS("#done"))),
	)
	if err != nil {
		t.Fatal(err)
	}
	if !drawn || len(recoveryText.FindAllString(shown, -1)) != recoveryCodes || !strings.Contains(account, "Link Example Corp") ||
		!strings.Contains(facts, "build-7") || !strings.Contains(done, "logs in as shivam") {
		t.Errorf("drawn %v; saw %q; %q; %q; %q", drawn, shown, account, facts, done)
	}
	f.forward(devicePoll)
	if token, refused := d.asks(); token == "" {
		t.Errorf("the device hears %q", refused)
	}
}
