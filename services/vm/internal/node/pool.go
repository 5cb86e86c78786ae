package node

import (
	"context"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/record"
)

const invalid = "FieldValueInvalid"

// kept is a state in the store.
type kept struct {
	record.Version
	State
}

// Cluster is what else of a cluster decides where VMs run.
type Cluster struct {
	record.Version
	// Namespaces are the labels of namespaces, by name.
	Namespaces map[string]map[string]string `json:"namespaces,omitempty"`
	// Priorities are the values of PriorityClasses, by name.
	Priorities      map[string]int32 `json:"priorities,omitempty"`
	DefaultPriority int32            `json:"defaultPriority,omitempty"`
}

// clusterKey is where the only Cluster is.
const clusterKey = "state"

// Pool is all nodes, with what an administrator said of them and of the cluster,
// which is kept in etcd.
type Pool struct {
	nodes   []Node
	states  *record.Store[kept, *kept]
	cluster *record.Store[Cluster, *Cluster]
}

// NewPool returns the nodes, with the states that are kept under a service's
// prefix.
func NewPool(client *clientv3.Client, prefix string, nodes []Node) *Pool {
	return &Pool{
		nodes:   nodes,
		states:  record.New[kept](client, prefix+"/nodes/"),
		cluster: record.New[Cluster](client, prefix+"/cluster/"),
	}
}

// Cluster returns what was last set; empty where nothing was.
func (p *Pool) Cluster(ctx context.Context) (*Cluster, error) { return p.cluster.Get(ctx, clusterKey) }

// SetCluster keeps what a cluster says.
func (p *Pool) SetCluster(ctx context.Context, cluster *Cluster) error {
	return p.cluster.Change(ctx, clusterKey, func(c *Cluster) {
		c.Namespaces, c.Priorities, c.DefaultPriority = cluster.Namespaces, cluster.Priorities, cluster.DefaultPriority
	})
}

// All returns the nodes as they are now.
func (p *Pool) All(ctx context.Context) ([]Node, error) {
	nodes := slices.Clone(p.nodes)
	for i := range nodes {
		state, err := p.states.Get(ctx, nodes[i].Name)
		if err != nil {
			return nil, err
		}
		nodes[i].State = state.State
	}
	return nodes, nil
}

// SetState keeps what an administrator says of a node. Class NotFound for one
// that is not there, Invalid for what no node can have.
func (p *Pool) SetState(ctx context.Context, name string, state State) (Node, error) {
	at := slices.IndexFunc(p.nodes, func(n Node) bool { return n.Name == name })
	if at < 0 {
		return Node{}, fault.New(fault.NotFound, "NotFound", "node %q not found", name)
	}
	if err := state.validate(); err != nil {
		return Node{}, err
	}
	if err := p.states.Change(ctx, name, func(k *kept) { k.State = state }); err != nil {
		return Node{}, err
	}
	node := p.nodes[at]
	node.State = state
	return node, nil
}

func (s State) validate() error {
	for key, value := range s.Labels {
		if problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(problems) > 0 {
			return fault.Refuse("state.labels", invalid, "%s=%s is no label: %s", key, value, problems[0])
		}
	}
	effects := []corev1.TaintEffect{
		corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute,
	}
	for _, taint := range s.Taints {
		if problems := append(validation.IsQualifiedName(taint.Key), validation.IsValidLabelValue(taint.Value)...); len(problems) > 0 {
			return fault.Refuse("state.taints", invalid, "%s=%s is no taint: %s", taint.Key, taint.Value, problems[0])
		}
		if !slices.Contains(effects, taint.Effect) {
			return fault.Refuse("state.taints", invalid, "the effect of taint %s must be one of %v, not %q", taint.Key, effects, taint.Effect)
		}
	}
	return nil
}
