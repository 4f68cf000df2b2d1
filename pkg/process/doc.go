// Package process is how every binary of ours begins and ends: a context that
// ends with SIGINT or SIGTERM, one way to print an error, and exit codes that
// scripts can rely on.
//
// An error is printed on stderr as one line in lower case, and where the person
// can do something about it a second line names the next command:
//
//	error: no session on this device
//	hint: sallyport login https://coordinator.example:8443
//
// Nothing is printed twice, and nothing about the machine (stack, addresses of
// goroutines) is printed at all.
package process
