// Package cli is sallyport's commands, one file each. A command reads flags,
// calls one of the other packages, and prints what a person needs to know next;
// errors go back to package process, which prints them.
package cli
