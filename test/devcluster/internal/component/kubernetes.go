package component

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubectl's
	"k8s.io/client-go/rest"
	"k8s.io/component-base/cli"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// ListenerFD is the listening socket that the supervisor hands to the apiserver and the node.
// It is opened by the supervisor so that no other program can take the port in between.
const ListenerFD = 3

// InheritedListener opens that socket.
func InheritedListener() (net.Listener, error) {
	f := os.NewFile(ListenerFD, "listener")
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("opening inherited listener: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("closing inherited file: %w", err)
	}
	return l, nil
}

// APIServer is kube-apiserver's own command with the listener put in, which it has no flag for.
func APIServer(ctx context.Context, args []string) error {
	o := options.NewServerRunOptions()
	flags := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	flags.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	named := o.Flags()
	for _, set := range named.FlagSets {
		flags.AddFlagSet(set)
	}
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("reading flags: %w", err)
	}
	if err := o.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return fmt.Errorf("setting feature gates: %w", err)
	}
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	if err := logsapi.ValidateAndApply(o.Logs, utilfeature.DefaultFeatureGate); err != nil {
		return fmt.Errorf("setting up logging: %w", err)
	}
	l, err := InheritedListener()
	if err != nil {
		return err
	}
	o.SecureServing.Listener = l
	completed, err := o.Complete(ctx)
	if err != nil {
		return fmt.Errorf("completing options: %w", err)
	}
	if errs := completed.Validate(); len(errs) != 0 {
		return fmt.Errorf("checking options: %w", utilerrors.NewAggregate(errs))
	}
	return apiserver.Run(ctx, completed)
}

// ControllerManager is kube-controller-manager.
func ControllerManager(args []string) error {
	return execute(controllermanager.NewControllerManagerCommand(), args)
}

// Scheduler is kube-scheduler.
func Scheduler(args []string) error {
	return execute(scheduler.NewSchedulerCommand(), args)
}

// Kubectl is kubectl. It does not return when the command fails.
func Kubectl(args []string) {
	os.Args = append([]string{"kubectl"}, args...) // it reads them in several places
	_, _ = logs.GlogSetter(kubectl.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}

func execute(c *cobra.Command, args []string) error {
	c.SetArgs(args)
	return c.Execute()
}
