package cluster

import (
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// writeKubeconfigs writes admin.kubeconfig at the top of the directory and the components'
// beside their keys. Keys are embedded, so that a copied file works.
func (o Options) writeKubeconfigs(s state) error {
	ca, err := os.ReadFile(o.path(pkiDir, "ca.crt"))
	if err != nil {
		return fmt.Errorf("reading CA: %w", err)
	}
	for _, c := range clients {
		cert, err := os.ReadFile(o.path(pkiDir, c.file+".crt"))
		if err != nil {
			return fmt.Errorf("reading certificate: %w", err)
		}
		key, err := os.ReadFile(o.path(pkiDir, c.file+".key"))
		if err != nil {
			return fmt.Errorf("reading key: %w", err)
		}
		config := api.NewConfig()
		config.Clusters[s.Name] = &api.Cluster{Server: s.apiServer(), CertificateAuthorityData: ca}
		config.AuthInfos[c.commonName] = &api.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
		config.Contexts[s.Name] = &api.Context{Cluster: s.Name, AuthInfo: c.commonName}
		config.CurrentContext = s.Name
		raw, err := clientcmd.Write(*config)
		if err != nil {
			return fmt.Errorf("encoding kubeconfig: %w", err)
		}
		path := o.path(pkiDir, c.file+".kubeconfig")
		if c.file == "admin" {
			path = o.path(AdminKubeconfig)
		}
		if err := writeFile(path, raw); err != nil {
			return err
		}
	}
	return nil
}
