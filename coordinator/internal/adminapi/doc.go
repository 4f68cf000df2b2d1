// Package adminapi serves AdminService: everything an administrator can do,
// from the CLI with a login or over the bootstrap socket.
//
// Each method begins with begin, which is the only way to get at the caller:
// it decides with Casbin whether this person may do this here, puts the attempt
// on record durably, refused or not, and only then lets the method go on. A
// call that cannot be put on record does not happen. The names a refused caller
// gave are not resolved for him: he learns that he may not, not what exists.
package adminapi
