// Package login turns a login URL into a session on this device.
//
// First the coordinator is known, by its public certificate or by the pin in the
// URL, and everything after that goes to this origin alone: the issuer and its
// endpoints have to be there too. The person authenticates in the browser
// (authorization code with PKCE, a state, a nonce, a loopback redirect on a
// random port, RFC 8252); the code and the tokens stay in this process's memory
// and end with it. What remains is a certificate for a key that never left the
// device.
//
// Where there is no browser, a code is approved in one elsewhere (RFC 8628): what
// the approval is for is this device's key, and no other device can use it.
//
// The page on the loopback port answers one request with the right state. A
// request with another state, path or Host header (DNS rebinding) gets nothing
// and ends nothing. Nothing is written before everything has been checked: a
// login that fails leaves the device as it was.
package login
