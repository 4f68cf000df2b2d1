package proxy

import "testing"

func BenchmarkParse(b *testing.B) {
	for name, target := range map[string]string{
		"get":  "/api/v1/namespaces/default/pods/web-1",
		"list": "/api/v1/namespaces/default/pods?limit=500&labelSelector=app%3Dweb",
	} {
		b.Run(name, func(b *testing.B) {
			r := read(b, "GET", target, "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json\r\nUser-Agent: kubectl/v1.36.3 (linux/amd64)\r\nAccept-Encoding: gzip\r\nKubectl-Command: kubectl get\r\nKubectl-Session: x\r\n")
			b.ReportAllocs()
			for b.Loop() {
				if _, bad := parse(r); bad != nil {
					b.Fatal(bad)
				}
			}
		})
	}
}
