// What a program of Go does with Consul's own client, as it comes. CONSUL_URL says where, PREFIX which names are ours.
package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	consul "github.com/hashicorp/consul/api"
)

var prefix = os.Getenv("PREFIX")

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(holds bool, what string, seen ...any) {
	if !holds {
		panic(fmt.Sprintln(append([]any{what}, seen...)...))
	}
}

func main() {
	client, err := consul.NewClient(&consul.Config{Address: os.Getenv("CONSUL_URL")})
	must(err)
	services(client)
	catalog(client)
	keys(client)
	locks(client)
	transactions(client)
	events(client)
	queries(client)
	log(client)
	fmt.Println("all good")
}

func services(client *consul.Client) {
	name, id := prefix+"-web", prefix+"-web-1"
	agent, health := client.Agent(), client.Health()
	_, before, err := health.Service(name, "", true, nil)
	must(err)
	check(before.LastIndex > 0 && before.KnownLeader, "a read has an index", before)

	type found struct {
		entries []*consul.ServiceEntry
		meta    *consul.QueryMeta
		err     error
	}
	waited := make(chan found, 1)
	go func() {
		entries, meta, err := health.Service(name, "v1", true, &consul.QueryOptions{WaitIndex: before.LastIndex, WaitTime: 20 * time.Second})
		waited <- found{entries, meta, err}
	}()
	must(agent.ServiceRegister(&consul.AgentServiceRegistration{
		ID: id, Name: name, Address: "10.0.0.1", Port: 8080, Tags: []string{"v1", "blue"}, Meta: map[string]string{"zone": "eu"},
		Weights: &consul.AgentWeights{Passing: 5, Warning: 1},
		Check:   &consul.AgentServiceCheck{TTL: "30s", DeregisterCriticalServiceAfter: "1m"},
	}))
	// It is critical until it says something; those who wait for what passes are told of every change.
	must(agent.PassTTL("service:"+id, "fine"))
	got := <-waited
	must(got.err)
	for len(got.entries) == 0 {
		got.entries, got.meta, got.err = health.Service(name, "v1", true, &consul.QueryOptions{WaitIndex: got.meta.LastIndex, WaitTime: 20 * time.Second})
		must(got.err)
	}
	entry := got.entries[0]
	check(entry.Service.ID == id && entry.Service.Port == 8080 && entry.Service.Meta["zone"] == "eu", "the entry", entry.Service)
	check(strings.Join(entry.Service.Tags, ",") == "v1,blue" && entry.Service.Weights.Passing == 5, "tags and weights", entry.Service)
	check(entry.Checks.AggregatedStatus() == consul.HealthPassing, "it passes", entry.Checks)
	check(got.meta.LastIndex > before.LastIndex, "the index has moved", got.meta)

	status, infos, err := agent.AgentHealthServiceByName(name)
	must(err)
	check(status == consul.HealthPassing && len(infos) == 1, "the agent's verdict", status, infos)
	checks, err := agent.ChecksWithFilter(`Status == "passing" and ServiceID == "` + id + `"`)
	must(err)
	check(len(checks) == 1 && checks["service:"+id].Output == "fine", "the agent's checks", checks)
	must(agent.WarnTTL("service:"+id, "slow"))
	must(agent.EnableServiceMaintenance(id, "work"))
	// The client takes the status of the answer, which is that of what is critical.
	status, info, err := agent.AgentHealthServiceByID(id)
	must(err)
	check(status == consul.HealthCritical && info.AggregatedStatus == consul.HealthMaint, "maintenance", status, info)
	must(agent.DisableServiceMaintenance(id))
	must(agent.UpdateTTL("service:"+id, "again", consul.HealthPassing))
	service, _, err := agent.Service(id, nil)
	must(err)
	check(service.Service == name && service.ContentHash != "", "the agent's service", service)
	filtered, _, err := health.Service(name, "", false, &consul.QueryOptions{Filter: `"blue" in Service.Tags`})
	must(err)
	check(len(filtered) == 1, "a filter", filtered)
	state, _, err := health.State(consul.HealthPassing, nil)
	must(err)
	check(len(state) > 0, "checks by state")
	must(agent.ServiceDeregister(id))
	gone, _, err := health.Service(name, "", false, nil)
	must(err)
	check(len(gone) == 0, "it is gone", gone)
	self, err := agent.Self()
	must(err)
	check(self["Config"]["Datacenter"] == "dc1", "who we are", self["Config"])
	leader, err := client.Status().Leader()
	must(err)
	check(leader != "", "a leader")
}

func catalog(client *consul.Client) {
	node, name := prefix+"-node", prefix+"-db"
	_, err := client.Catalog().Register(&consul.CatalogRegistration{
		Node: node, Address: "10.4.4.4", NodeMeta: map[string]string{"external-node": "true"},
		Service: &consul.AgentService{ID: name + "-1", Service: name, Port: 5432},
		Check:   &consul.AgentCheck{CheckID: "up", Name: "up", Status: consul.HealthPassing, ServiceID: name + "-1"},
	}, nil)
	must(err)
	found, _, err := client.Catalog().Service(name, "", nil)
	must(err)
	check(len(found) == 1 && found[0].Node == node && found[0].Address == "10.4.4.4", "in the catalog", found)
	all, _, err := client.Catalog().Services(nil)
	must(err)
	_, is := all[name]
	check(is, "among the services", all)
	nodes, _, err := client.Catalog().Nodes(&consul.QueryOptions{NodeMeta: map[string]string{"external-node": "true"}, Filter: `Node == "` + node + `"`})
	must(err)
	check(len(nodes) == 1, "among the nodes", nodes)
	_, err = client.Catalog().Deregister(&consul.CatalogDeregistration{Node: node}, nil)
	must(err)
	here, _, err := client.Catalog().Node(node, nil)
	must(err)
	check(here == nil, "the node is gone", here)
}

func keys(client *consul.Client) {
	kv, key := client.KV(), prefix+"/key"
	_, err := kv.Put(&consul.KVPair{Key: key, Value: []byte("one"), Flags: 42}, nil)
	must(err)
	pair, meta, err := kv.Get(key, nil)
	must(err)
	check(string(pair.Value) == "one" && pair.Flags == 42, "a value", pair)
	done, _, err := kv.CAS(&consul.KVPair{Key: key, Value: []byte("no"), ModifyIndex: pair.ModifyIndex + 1}, nil)
	must(err)
	check(!done, "a stale condition")
	changed := make(chan string, 1)
	go func() {
		next, _, err := kv.Get(key, &consul.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: 20 * time.Second})
		must(err)
		changed <- string(next.Value)
	}()
	time.Sleep(100 * time.Millisecond)
	done, _, err = kv.CAS(&consul.KVPair{Key: key, Value: []byte("two"), ModifyIndex: pair.ModifyIndex}, nil)
	must(err)
	check(done, "a condition that holds")
	check(<-changed == "two", "who watches is told")
	names, _, err := kv.Keys(prefix+"/", "", nil)
	must(err)
	check(len(names) == 1 && names[0] == key, "names", names)
	_, err = kv.DeleteTree(prefix+"/", nil)
	must(err)
	pair, _, err = kv.Get(key, nil)
	must(err)
	check(pair == nil, "it is gone", pair)
}

func locks(client *consul.Client) {
	key := prefix + "/lock"
	lock, err := client.LockOpts(&consul.LockOptions{Key: key, Value: []byte("first"), SessionTTL: "10s", LockTryOnce: true, LockWaitTime: time.Second})
	must(err)
	lost, err := lock.Lock(nil)
	must(err)
	check(lost != nil, "the lock is ours")
	other, err := client.LockOpts(&consul.LockOptions{Key: key, LockTryOnce: true, LockWaitTime: 300 * time.Millisecond, LockDelay: time.Millisecond})
	must(err)
	got, err := other.Lock(nil)
	must(err)
	check(got == nil, "it is nobody else's")
	must(lock.Unlock())
	got, err = other.Lock(nil)
	must(err)
	check(got != nil, "and then it is")
	must(other.Unlock())
	must(other.Destroy())

	semaphore, err := client.SemaphorePrefix(prefix+"/semaphore", 1)
	must(err)
	held, err := semaphore.Acquire(nil)
	must(err)
	check(held != nil, "the semaphore is ours")
	must(semaphore.Release())

	id, _, err := client.Session().Create(&consul.SessionEntry{Name: prefix, TTL: "10s", Behavior: consul.SessionBehaviorDelete, LockDelay: time.Millisecond}, nil)
	must(err)
	done, _, err := client.KV().Acquire(&consul.KVPair{Key: key, Session: id, Value: []byte("x")}, nil)
	must(err)
	check(done, "acquired")
	entry, _, err := client.Session().Renew(id, nil)
	must(err)
	check(entry.ID == id && entry.TTL == "10s", "renewed", entry)
	_, err = client.Session().Destroy(id, nil)
	must(err)
	pair, _, err := client.KV().Get(key, nil)
	must(err)
	check(pair == nil, "it went with its session", pair)
}

func transactions(client *consul.Client) {
	node, service, key := prefix+"-txn", prefix+"-txn-s", prefix+"/txn"
	ops := consul.TxnOps{
		{KV: &consul.KVTxnOp{Verb: consul.KVSet, Key: key, Value: []byte("1")}},
		{Node: &consul.NodeTxnOp{Verb: consul.NodeSet, Node: consul.Node{Node: node, Address: "10.5.5.5"}}},
		{Service: &consul.ServiceTxnOp{Verb: consul.ServiceSet, Node: node, Service: consul.AgentService{ID: service, Service: service, Port: 1}}},
		{Check: &consul.CheckTxnOp{Verb: consul.CheckSet, Check: consul.HealthCheck{Node: node, CheckID: "c", Name: "c", ServiceID: service, Status: consul.HealthPassing}}},
	}
	ok, answer, _, err := client.Txn().Txn(ops, nil)
	must(err)
	check(ok && len(answer.Results) == 4 && len(answer.Errors) == 0, "a transaction", ok, answer)
	index := answer.Results[2].Service.ModifyIndex
	check(answer.Results[1].Node.Node == node && index > 0 && answer.Results[3].Check.CheckID == "c", "its results", answer.Results)
	entries, _, err := client.Health().Service(service, "", true, nil)
	must(err)
	check(len(entries) == 1 && entries[0].Node.Address == "10.5.5.5", "what it made", entries)
	ops = consul.TxnOps{
		{KV: &consul.KVTxnOp{Verb: consul.KVDelete, Key: key}},
		{Service: &consul.ServiceTxnOp{Verb: consul.ServiceCAS, Node: node, Service: consul.AgentService{ID: service, Service: service, Port: 2, ModifyIndex: index + 1}}},
	}
	ok, answer, _, err = client.Txn().Txn(ops, nil)
	must(err)
	check(!ok && len(answer.Results) == 0 && len(answer.Errors) == 1 && answer.Errors[0].OpIndex == 1, "refused as a whole", ok, answer)
	pair, _, err := client.KV().Get(key, nil)
	must(err)
	check(pair != nil, "the key is still there")
	ops[1].Service.Service.ModifyIndex = index
	ok, answer, _, err = client.Txn().Txn(append(ops, &consul.TxnOp{Node: &consul.NodeTxnOp{Verb: consul.NodeDelete, Node: consul.Node{Node: node}}}), nil)
	must(err)
	check(ok, "carried out as a whole", answer)
	entries, _, err = client.Health().Service(service, "", false, nil)
	must(err)
	check(len(entries) == 0, "all is gone", entries)
}

func events(client *consul.Client) {
	id, _, err := client.Event().Fire(&consul.UserEvent{Name: prefix + "-deploy", Payload: []byte("42")}, nil)
	must(err)
	list, _, err := client.Event().List(prefix+"-deploy", nil)
	must(err)
	check(len(list) == 1 && list[0].ID == id && bytes.Equal(list[0].Payload, []byte("42")), "an event", list)
}

func queries(client *consul.Client) {
	name := prefix + "-q"
	must(client.Agent().ServiceRegister(&consul.AgentServiceRegistration{ID: name, Name: name, Address: "10.0.0.9", Port: 9}))
	defer func() { must(client.Agent().ServiceDeregister(name)) }()
	query := &consul.PreparedQueryDefinition{Name: name, Service: consul.ServiceQuery{Service: name, OnlyPassing: true}, DNS: consul.QueryDNSOptions{TTL: "5s"}}
	id, _, err := client.PreparedQuery().Create(query, nil)
	must(err)
	got, _, err := client.PreparedQuery().Execute(name, nil)
	must(err)
	check(len(got.Nodes) == 1 && got.Nodes[0].Service.Port == 9 && got.DNS.TTL == "5s", "a prepared query", got)
	list, _, err := client.PreparedQuery().Get(id, nil)
	must(err)
	check(len(list) == 1 && list[0].Name == name, "its definition", list)
	_, err = client.PreparedQuery().Delete(id, nil)
	must(err)
}

func log(client *consul.Client) {
	stop := make(chan struct{})
	lines, err := client.Agent().Monitor("debug", stop, nil)
	must(err)
	close(stop)
	for range lines {
	}
}
