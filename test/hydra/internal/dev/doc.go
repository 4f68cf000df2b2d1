// Package dev runs Ory Hydra for development and tests: the real one, migrated and configured
// as a production would, behind a coordinator that ends TLS for it.
//
// The database is a throw-away PostgreSQL where its programs are installed, reachable through a
// unix socket only; else SQLite, on which two logins at the same time break each other. The
// admin API, which is as good as root (it returns private keys), is a unix socket too, for its
// owner alone. Secrets are made on the first start and stay in the directory.
//
// A start takes a lock that PostgreSQL and Hydra inherit. Having it means that nothing of an
// earlier start is alive, so what a killed one left behind (postmaster.pid, sockets) may be
// removed. Nothing outlives the supervisor: Hydra reads a pipe only it holds, and PostgreSQL
// gets a signal from the kernel.
package dev
