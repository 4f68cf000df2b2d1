package namespaces

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// Config says which cluster is followed, and who is told.
type Config struct {
	// REST reaches the apiserver as the agent's own account. Required.
	REST *rest.Config
	// Tell is told of every change, one after the other: nil while the namespaces
	// are not known. What it is given does not change later. Required.
	Tell func(policy.Namespaces)
	// Log; nil means slog.Default().
	Log *slog.Logger
}

// Follow tells until ctx ends.
func Follow(ctx context.Context, cfg Config) error {
	if cfg.REST == nil || cfg.Tell == nil {
		return errors.New("following namespaces needs REST and Tell")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	client, err := kubernetes.NewForConfig(cfg.REST)
	if err != nil {
		return fmt.Errorf("making client for namespaces: %w", err)
	}
	f := &follower{tell: cfg.Tell, log: cfg.Log}
	api := client.CoreV1().Namespaces()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := api.List(ctx, o)
			f.asked(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := api.Watch(ctx, o)
			f.asked(err)
			return w, err
		},
	}
	cache.NewReflectorWithOptions(lw, &corev1.Namespace{}, f, cache.ReflectorOptions{Name: "namespaces"}).RunWithContext(ctx)
	return nil
}

// follower is a cache.ReflectorStore that keeps labels alone. The reflector
// calls it from one goroutine.
type follower struct {
	tell func(policy.Namespaces)
	log  *slog.Logger
	// known is what was told last; nil before the first list, and once we may no
	// longer look.
	known policy.Namespaces
}

// asked looks at how the apiserver took a question.
func (f *follower) asked(err error) {
	if f.known == nil || !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) {
		return
	}
	f.log.Error("the labels of namespaces may no longer be read: grants by label allow nothing until they may", "error", err)
	f.say(nil)
}

func (f *follower) say(ns policy.Namespaces) {
	f.known = ns
	f.tell(ns)
}

func (f *follower) set(obj any) error {
	ns, ok := obj.(*corev1.Namespace)
	if !ok {
		return fmt.Errorf("a %T is not a namespace", obj)
	}
	if have, there := f.known[ns.Name]; f.known == nil || there && maps.Equal(have, ns.Labels) {
		return nil
	}
	next := maps.Clone(f.known)
	next[ns.Name] = ns.Labels
	f.say(next)
	return nil
}

// Add implements cache.ReflectorStore.
func (f *follower) Add(obj any) error { return f.set(obj) }

// Update implements cache.ReflectorStore.
func (f *follower) Update(obj any) error { return f.set(obj) }

// Delete implements cache.ReflectorStore.
func (f *follower) Delete(obj any) error {
	ns, ok := obj.(*corev1.Namespace)
	if !ok {
		return fmt.Errorf("a %T is not a namespace", obj)
	}
	if _, there := f.known[ns.Name]; !there {
		return nil
	}
	next := maps.Clone(f.known)
	delete(next, ns.Name)
	f.say(next)
	return nil
}

// Replace implements cache.ReflectorStore: all that there are.
func (f *follower) Replace(list []any, _ string) error {
	next := make(policy.Namespaces, len(list))
	for _, obj := range list {
		ns, ok := obj.(*corev1.Namespace)
		if !ok {
			return fmt.Errorf("a %T is not a namespace", obj)
		}
		next[ns.Name] = ns.Labels
	}
	f.say(next)
	return nil
}

// Resync implements cache.ReflectorStore.
func (f *follower) Resync() error { return nil }
