package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

func settings() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Producer.Return.Successes = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Group.Session.Timeout = 8 * time.Second
	config.Consumer.Group.Heartbeat.Interval = time.Second
	return config
}

func throughSarama() {
	admin := must(sarama.NewClusterAdmin([]string{broker}, settings()))
	defer admin.Close()
	saramaTopics(admin)
	saramaCodecs(admin)
	saramaGroups(admin)
	saramaTransactions(admin)
	saramaRules(admin)
	for _, mechanism := range mechanisms {
		saramaSasl(mechanism)
	}
}

func saramaTopics(admin sarama.ClusterAdmin) {
	kept := "600000"
	detail := &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &kept}}
	done(admin.CreateTopic("sarama", detail, false))
	var refused *sarama.TopicError
	check(errors.As(admin.CreateTopic("sarama", detail, false), &refused) && refused.Err == sarama.ErrTopicAlreadyExists, "made once only")
	done(admin.CreatePartitions("sarama", 4, nil, false))
	described := must(admin.DescribeTopics([]string{"sarama"}))
	check(len(described[0].Partitions) == 4, "grown")
	longer := "700000"
	set := map[string]sarama.IncrementalAlterConfigsEntry{"retention.ms": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &longer}}
	done(admin.IncrementalAlterConfig(sarama.TopicResource, "sarama", set, false))
	entries := must(admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: "sarama", ConfigNames: []string{"retention.ms"}}))
	check(len(entries) == 1 && entries[0].Value == longer, "configured", entries)
	brokers, controller, err := admin.DescribeCluster()
	check(err == nil && len(brokers) == 1 && controller == brokers[0].ID(), "one broker", err)
	check(len(must(admin.DescribeLogDirs([]int32{controller}))) == 1, "log directories")
	reassigned := must(admin.ListPartitionReassignments("sarama", []int32{0}))
	check(len(reassigned) == 0, "no replica is on its way")
}

func saramaCodecs(admin sarama.ClusterAdmin) {
	codecs := []sarama.CompressionCodec{
		sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy, sarama.CompressionLZ4, sarama.CompressionZSTD,
	}
	for _, codec := range codecs {
		topic, config := "sarama-"+codec.String(), settings()
		config.Producer.Compression = codec
		if codec != sarama.CompressionNone {
			config.Producer.Idempotent, config.Net.MaxOpenRequests = true, 1
		}
		producer := must(sarama.NewSyncProducer([]string{broker}, config))
		var messages []*sarama.ProducerMessage
		for n := range 300 {
			messages = append(messages, &sarama.ProducerMessage{
				Topic: topic, Key: sarama.StringEncoder(fmt.Sprint("k", n)), Value: sarama.StringEncoder(fmt.Sprintf("%200d", n)),
				Timestamp: base.Add(time.Duration(n) * time.Second),
				Headers:   []sarama.RecordHeader{{Key: []byte("h"), Value: []byte("1")}, {Key: []byte("h"), Value: []byte("2")}},
			})
		}
		done(producer.SendMessages(messages))
		done(producer.Close())
		read := saramaRead(topic, 300, settings())
		for n, message := range read {
			check(message.Offset == int64(n) && message.Timestamp.Equal(base.Add(time.Duration(n)*time.Second)), "offset and time", n)
		}
		check(string(read[7].Key) == "k7" && string(read[7].Value) == fmt.Sprintf("%200d", 7), "key and value")
		check(len(read[7].Headers) == 2 && string(read[7].Headers[1].Value) == "2", "headers, also twice the same")
		client := must(sarama.NewClient([]string{broker}, settings()))
		check(must(client.GetOffset(topic, 0, base.Add(3500*time.Millisecond).UnixMilli())) == 4, "offset by time")
		done(client.Close())
	}
	done(admin.DeleteRecords("sarama-none", map[int32]int64{0: 5}))
	check(saramaRead("sarama-none", 1, settings())[0].Offset == 5, "deleted records")
}

func saramaRead(topic string, count int, config *sarama.Config) (read []*sarama.ConsumerMessage) {
	consumer := must(sarama.NewConsumer([]string{broker}, config))
	partition := must(consumer.ConsumePartition(topic, 0, sarama.OffsetOldest))
	for len(read) < count {
		select {
		case message := <-partition.Messages():
			read = append(read, message)
		case <-time.After(patience):
			panic(fmt.Sprint("only ", len(read), " of ", count, " records of ", topic))
		}
	}
	done(partition.Close())
	done(consumer.Close())
	return read
}

// member is one of a group: it counts what it is given, by partition, and notes its share.
type member struct {
	sync.Mutex
	share map[string][]int32
	seen  map[int32][]int64
}

func (m *member) Setup(session sarama.ConsumerGroupSession) error {
	m.Lock()
	defer m.Unlock()
	m.share = session.Claims()
	return nil
}

func (m *member) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (m *member) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, more := <-claim.Messages():
			if !more {
				return nil
			}
			m.Lock()
			m.seen[message.Partition] = append(m.seen[message.Partition], message.Offset)
			m.Unlock()
			session.MarkMessage(message, "")
		case <-session.Context().Done():
			return nil
		}
	}
}

func (m *member) count() (seen int) {
	m.Lock()
	defer m.Unlock()
	for _, offsets := range m.seen {
		seen += len(offsets)
	}
	return seen
}

func (m *member) partitions() int {
	m.Lock()
	defer m.Unlock()
	return len(m.share["sarama"])
}

func joined(strategy sarama.BalanceStrategy) (*member, func()) {
	config := settings()
	config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{strategy}
	group := must(sarama.NewConsumerGroup([]string{broker}, "sarama-group", config))
	one, ended := &member{seen: map[int32][]int64{}}, make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if err := group.Consume(ctx, []string{"sarama"}, one); err != nil && ctx.Err() == nil {
				panic(err)
			}
		}
	}()
	return one, func() {
		cancel()
		<-ended
		done(group.Close())
	}
}

func saramaSend(count int) {
	config := settings()
	config.Producer.Partitioner = sarama.NewManualPartitioner
	producer := must(sarama.NewSyncProducer([]string{broker}, config))
	for n := range count {
		_, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: "sarama", Partition: int32(n % 4), Value: sarama.StringEncoder("v")})
		done(err)
	}
	done(producer.Close())
}

func saramaGroups(admin sarama.ClusterAdmin) {
	saramaSend(40)
	first, leave := joined(sarama.NewBalanceStrategySticky())
	until("all to the only member", func() bool { return first.count() == 40 })
	second, leaveToo := joined(sarama.NewBalanceStrategySticky())
	until("two members share", func() bool { return first.partitions() == 2 && second.partitions() == 2 })
	described := must(admin.DescribeConsumerGroups([]string{"sarama-group"}))
	check(len(described[0].Members) == 2 && described[0].State == "Stable", "described", described[0].State)
	saramaSend(40)
	until("each reads its own", func() bool { return first.count()+second.count() == 80 })
	leave()
	until("one is left", func() bool { return second.partitions() == 4 })
	leaveToo()
	committed := must(admin.ListConsumerGroupOffsets("sarama-group", map[string][]int32{"sarama": {0, 1, 2, 3}}))
	for partition, block := range committed.Blocks["sarama"] {
		check(block.Offset == 20, "committed when they left", partition, block.Offset)
	}
	done(admin.DeleteConsumerGroup("sarama-group"))
	listed := must(admin.ListConsumerGroups())
	_, there := listed["sarama-group"]
	check(!there, "deleted groups are gone")
}

func saramaTransactions(admin sarama.ClusterAdmin) {
	config := settings()
	config.Producer.Idempotent, config.Net.MaxOpenRequests = true, 1
	config.Producer.Transaction.ID = "sarama-id"
	producer := must(sarama.NewAsyncProducer([]string{broker}, config))
	go func() {
		for range producer.Successes() {
		}
	}()
	go func() {
		for range producer.Errors() {
		}
	}()
	for n, value := range []string{"kept", "dropped", "last"} {
		done(producer.BeginTxn())
		producer.Input() <- &sarama.ProducerMessage{Topic: "sarama-sink", Value: sarama.StringEncoder(value)}
		offsets := map[string][]*sarama.PartitionOffsetMetadata{"sarama": {{Partition: 0, Offset: int64(n + 1)}}}
		done(producer.AddOffsetsToTxn(offsets, "sarama-transactions"))
		if value == "dropped" {
			done(producer.AbortTxn())
		} else {
			done(producer.CommitTxn())
		}
	}
	// Another one of the same id takes over.
	second := must(sarama.NewAsyncProducer([]string{broker}, config))
	done(producer.BeginTxn())
	producer.Input() <- &sarama.ProducerMessage{Topic: "sarama-sink", Value: sarama.StringEncoder("fenced")}
	check(producer.CommitTxn() != nil, "the first one was to be fenced")
	_ = producer.Close()
	done(second.Close())
	committed := settings()
	committed.Consumer.IsolationLevel = sarama.ReadCommitted
	read := saramaRead("sarama-sink", 2, committed)
	check(string(read[0].Value) == "kept" && string(read[1].Value) == "last", "committed records only")
	offsets := must(admin.ListConsumerGroupOffsets("sarama-transactions", map[string][]int32{"sarama": {0}}))
	check(offsets.GetBlock("sarama", 0).Offset == 3, "offsets of what was committed last")
}

func saramaRules(admin sarama.ClusterAdmin) {
	resource := sarama.Resource{ResourceType: sarama.AclResourceTopic, ResourceName: "sarama-acl", ResourcePatternType: sarama.AclPatternPrefixed}
	rule := sarama.Acl{Principal: "User:ann", Host: "*", Operation: sarama.AclOperationRead, PermissionType: sarama.AclPermissionAllow}
	done(admin.CreateACL(resource, rule))
	name := "sarama-acl"
	filter := sarama.AclFilter{
		Version: 1, ResourceType: sarama.AclResourceTopic, ResourceName: &name, ResourcePatternTypeFilter: sarama.AclPatternPrefixed,
		Operation: sarama.AclOperationAny, PermissionType: sarama.AclPermissionAny,
	}
	check(len(must(admin.ListAcls(filter))) == 1, "the rule is there")
	check(len(must(admin.DeleteACL(filter, false))) == 1, "and goes")
	client := []sarama.QuotaEntityComponent{{EntityType: sarama.QuotaEntityClientID, MatchType: sarama.QuotaMatchExact, Name: "sarama-slow"}}
	done(admin.AlterClientQuotas(client, sarama.ClientQuotasOp{Key: "producer_byte_rate", Value: 5e4}, false))
	exact := []sarama.QuotaFilterComponent{{EntityType: sarama.QuotaEntityClientID, MatchType: sarama.QuotaMatchExact, Match: "sarama-slow"}}
	quotas := must(admin.DescribeClientQuotas(exact, true))
	check(len(quotas) == 1 && quotas[0].Values["producer_byte_rate"] == 5e4, "the quota")
}

// conversation is what sarama wants of a library for SCRAM.
type conversation struct {
	hash scram.HashGeneratorFcn
	*scram.ClientConversation
}

func (c *conversation) Begin(user, password, authzID string) error {
	client, err := c.hash.NewClient(user, password, authzID)
	if err == nil {
		c.ClientConversation = client.NewConversation()
	}
	return err
}

func saramaSasl(mechanism string) {
	for _, password := range []string{word, "wrong"} {
		config := settings()
		config.Metadata.Retry.Max = 0
		config.Net.SASL.Enable, config.Net.SASL.User, config.Net.SASL.Password = true, user, password
		config.Net.SASL.Mechanism = sarama.SASLMechanism(mechanism)
		config.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient {
			return &conversation{hash: scram.HashGeneratorFcn(hashes[mechanism])}
		}
		client, err := sarama.NewClient([]string{saslBroker}, config)
		if password == "wrong" {
			check(errors.Is(err, sarama.ErrSASLAuthenticationFailed), "refused, not", err)
			continue
		}
		done(err)
		_ = must(client.Topics())
		done(client.Close())
	}
}
