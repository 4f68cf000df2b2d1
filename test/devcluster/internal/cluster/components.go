package cluster

import (
	_ "embed"
	"fmt"

	"github.com/sallyport-mesh/sallyport/test/devcluster/internal/component"
)

const (
	etcdDir = "etcd"
	// Both lie in the range for benchmarks (RFC 2544), like the pods' addresses.
	serviceCIDR = "198.19.0.0/16"
	serviceIP   = "198.19.0.1"
)

//go:embed audit-policy.yaml
var auditPolicy []byte

// spec is one component: its subcommand, its flags, and what it may use.
type spec struct {
	name string
	args []string
	env  []string
	// listener hands the component its port.
	listener bool
}

// The garbage collector's settings trade some processor time for memory: a control plane at
// rest should not cost half a gigabyte on somebody's laptop.
var small = []string{"GOGC=50"}

// specs are all components; paths are relative to the cluster's directory, where they run.
func specs(s state) (etcd, apiServer spec, rest []spec) {
	pki := func(name string) string { return pkiDir + "/" + name }
	etcd = spec{name: "etcd", env: small, args: []string{etcdDir}}
	apiServer = spec{name: "kube-apiserver", env: small, listener: true, args: []string{
		"--advertise-address=127.0.0.1",
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", s.APIServerPort),
		"--endpoint-reconciler-type=none", // loopback cannot be an endpoint
		"--etcd-servers=" + component.EtcdEndpoint,
		"--etcd-compaction-interval=5m",
		"--tls-cert-file=" + pki("kube-apiserver.crt"),
		"--tls-private-key-file=" + pki("kube-apiserver.key"),
		"--client-ca-file=" + pki("ca.crt"),
		"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + pki("front-proxy-client.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"),
		"--kubelet-client-certificate=" + pki("kubelet-client.crt"),
		"--kubelet-client-key=" + pki("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki("service-account.pub"),
		"--service-account-signing-key-file=" + pki("service-account.key"),
		"--service-cluster-ip-range=" + serviceCIDR,
		"--allow-privileged=true",
		"--profiling=false",
		"--shutdown-delay-duration=0s",
		"--audit-policy-file=" + auditPolicyFile,
		"--audit-log-path=" + AuditLog,
		"--audit-log-maxsize=256",
		"--audit-log-maxbackup=1",
		"--audit-log-mode=blocking", // a request that has been answered is in the log
	}}
	manager := spec{name: "kube-controller-manager", env: small, args: []string{
		"--kubeconfig=" + pki("kube-controller-manager.kubeconfig"),
		"--leader-elect=false",
		"--kube-api-qps=500", // the default of 20 would make a start take seconds longer
		"--kube-api-burst=1000",
		"--secure-port=0",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + pki("service-account.key"),
		"--root-ca-file=" + pki("ca.crt"),
		"--cluster-signing-cert-file=" + pki("ca.crt"),
		"--cluster-signing-key-file=" + pki("ca.key"),
		"--controllers=*,-node-ipam-controller,-service-lb-controller,-node-route-controller,-cloud-node-lifecycle-controller",
		"--profiling=false",
	}}
	scheduler := spec{name: "kube-scheduler", env: small, args: []string{
		"--kubeconfig=" + pki("kube-scheduler.kubeconfig"),
		"--leader-elect=false",
		"--kube-api-qps=500", // the default of 20 would make a start take seconds longer
		"--kube-api-burst=1000",
		"--secure-port=0",
		"--profiling=false",
	}}
	node := spec{name: "node", env: small, listener: true, args: []string{
		"--name=" + s.NodeName,
		"--kubeconfig=" + pki("node.kubeconfig"),
		"--dir=" + nodeDir,
		"--tls-cert-file=" + pki("kubelet.crt"),
		"--tls-private-key-file=" + pki("kubelet.key"),
		"--client-ca-file=" + pki("ca.crt"),
		"--client-name=" + kubeletClient,
	}}
	return etcd, apiServer, []spec{manager, scheduler, node}
}

const auditPolicyFile = "audit-policy.yaml"
