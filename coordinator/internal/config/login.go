package config

// Login says how people log in.
type Login struct {
	// RequireSecondFactor makes everyone who logs in with a password of this
	// coordinator set up a second factor. Default false: each person chooses.
	RequireSecondFactor bool `json:"require_second_factor"`
}
