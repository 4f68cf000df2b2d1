// Package localapi is how sallyport's commands and the credential plugin talk to
// the daemon: JSON over HTTP on a unix socket in the home.
//
// The socket is 0600 in a 0700 directory, and the daemon also asks the kernel who
// is on the other side of each connection and hangs up on anyone but its own
// user. What it tells is no secret to that user; no key or token passes here.
package localapi
