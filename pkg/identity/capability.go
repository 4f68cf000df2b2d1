package identity

// DeviceCapability is the overlay peer capability with which an agent learns,
// through WhoIs, which device a node is. The coordinator's packet filter grants
// it (tailcfg.FilterRule.CapGrant); its one value is a DeviceClaim in JSON.
const DeviceCapability = "sallyport.io/cap/device"

// DeviceClaim is the value of DeviceCapability.
type DeviceClaim struct {
	Device string `json:"device"`
	User   string `json:"user"`
}
