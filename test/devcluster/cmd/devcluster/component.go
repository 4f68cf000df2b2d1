package main

import (
	"context"
	"flag"
	"fmt"
	"os/signal"
	"syscall"

	"github.com/sallyport-mesh/sallyport/test/devcluster/internal/component"
	"github.com/sallyport-mesh/sallyport/test/devcluster/internal/node"
)

// runComponent is what the supervisor starts, one process for each.
func runComponent(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no component named")
	}
	// The two inherited files are for this process, not for what it starts in turn.
	syscall.CloseOnExec(component.ListenerFD)
	syscall.CloseOnExec(component.ListenerFD + 1)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	name, args := args[0], args[1:]
	switch name {
	case "node":
		return runNode(component.Lifeline(ctx), args)
	case "etcd":
		component.LifelineHard()
		return component.Etcd(ctx, args[0])
	case "kube-apiserver":
		component.LifelineHard()
		return component.APIServer(ctx, args)
	case "kube-controller-manager":
		stop() // it handles signals itself
		component.LifelineHard()
		return component.ControllerManager(args)
	case "kube-scheduler":
		stop()
		component.LifelineHard()
		return component.Scheduler(args)
	}
	return fmt.Errorf("unknown component %q", name)
}

func runNode(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("node", flag.ContinueOnError)
	var c node.Config
	flags.StringVar(&c.Name, "name", "", "name of the Node")
	flags.StringVar(&c.Kubeconfig, "kubeconfig", "", "kubeconfig")
	flags.StringVar(&c.Dir, "dir", "", "directory of the containers")
	flags.StringVar(&c.CertFile, "tls-cert-file", "", "serving certificate")
	flags.StringVar(&c.KeyFile, "tls-private-key-file", "", "its key")
	flags.StringVar(&c.ClientCAFile, "client-ca-file", "", "CA of the apiserver's client certificate")
	flags.StringVar(&c.ClientName, "client-name", "", "common name of that certificate")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := component.InheritedListener()
	if err != nil {
		return err
	}
	c.Listener = l
	return node.Run(ctx, c)
}
