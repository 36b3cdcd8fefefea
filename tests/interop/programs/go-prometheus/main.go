// Prometheus' own discovery by Consul's API, as a program: prints what it finds, a line of JSON for each change.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sort"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/consul"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

func main() {
	config := consul.DefaultSDConfig
	config.Server = os.Getenv("CONSUL_URL")
	config.RefreshInterval = model.Duration(time.Second)
	if service := os.Getenv("SERVICE"); service != "" {
		config.Services = []string{service}
	}
	if tag := os.Getenv("TAG"); tag != "" {
		config.ServiceTags = []string{tag}
	}
	registry := prometheus.NewRegistry()
	refresh := discovery.NewRefreshMetrics(registry)
	metrics := config.NewDiscovererMetrics(registry, refresh)
	if err := metrics.Register(); err != nil {
		panic(err)
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	found, err := consul.NewDiscovery(&config, logger, metrics)
	if err != nil {
		panic(err)
	}
	groups := make(chan []*targetgroup.Group)
	go found.Run(context.Background(), groups)
	all := map[string]*targetgroup.Group{}
	for changed := range groups {
		for _, group := range changed {
			all[group.Source] = group
		}
		targets := []map[string]string{}
		for _, group := range all {
			for _, target := range group.Targets {
				labels := map[string]string{}
				for name, value := range group.Labels.Merge(target) {
					labels[string(name)] = string(value)
				}
				targets = append(targets, labels)
			}
		}
		sort.Slice(targets, func(a, b int) bool {
			return targets[a]["__meta_consul_service_id"] < targets[b]["__meta_consul_service_id"]
		})
		line, err := json.Marshal(targets)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(line))
	}
}
