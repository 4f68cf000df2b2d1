//go:build sqlite

package dev

const hasSQLite = true
