// Exercises a broker through sarama and kafka-go: BROKER is open, SASL_BROKER asks for SASL_USER and SASL_PASSWORD by MECHANISMS.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"os"
	"strings"
	"time"
)

const patience = 40 * time.Second

var (
	broker     = os.Getenv("BROKER")
	saslBroker = os.Getenv("SASL_BROKER")
	mechanisms = strings.Split(os.Getenv("MECHANISMS"), ",")
	user, word = os.Getenv("SASL_USER"), os.Getenv("SASL_PASSWORD")
	hashes     = map[string]func() hash.Hash{"SCRAM-SHA-256": sha256.New, "SCRAM-SHA-512": sha512.New}
	// Recent: what is older than a topic keeps goes at once.
	base = time.Now().Add(-time.Hour).Truncate(time.Second)
)

func check(holds bool, what string, more ...any) {
	if !holds {
		panic(what + " " + fmt.Sprint(more...))
	}
}

func done(err error) { check(err == nil, "failed:", err) }

func must[T any](value T, err error) T {
	done(err)
	return value
}

func until(what string, holds func() bool) {
	for end := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		check(time.Now().Before(end), "not in time:", what)
	}
}

func within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func main() {
	throughSarama()
	throughSegment()
	fmt.Println("all good")
}
