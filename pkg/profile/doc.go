// Package profile is what a person's device remembers between two commands: the
// coordinator, how to trust it, and the session. sallyport writes it, sallyportctl
// reads it: an administrator's certificate is the session's.
//
// All of it lives in one directory, SALLYPORT_HOME (default ~/.sallyport, 0700),
// so several people fit on one machine, and removing the directory removes every
// trace. A directory that others may enter is refused. The device key is made
// once and never leaves; everything else about a session, certificate included,
// is one file that is replaced as a whole, so no crash leaves a certificate of one
// session beside the ids of another. No OAuth token is ever stored.
//
// A second coordinator is a second profile (SALLYPORT_PROFILE): a home of its own
// below the first, so the two share nothing, not even the device key, and no
// coordinator learns of the other.
package profile
