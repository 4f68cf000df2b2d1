// Package enroll is who this agent is: the keys it made, and what the
// coordinator gave it for a join token.
//
// The keys exist in memory alone until the coordinator has answered, and what it
// answered is written last: a directory holds a whole identity or none, so a
// start that failed is never mistaken for an enrolment, and a token that was
// refused leaves nothing to clear away. Certificates are renewed with the same
// key, ahead of time and after they ran out too, since a cluster may well be
// cut off for longer than they last.
package enroll
