package login

// hydraBinary is the real Hydra with a supervisor (test/hydra).
func hydraBinary() (string, error) { return "/tmp/dc/hydra-dev", nil }
