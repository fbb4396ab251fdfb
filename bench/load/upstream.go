package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// serveUpstream serves HTTPS/1.1 on loopback with a P-256 certificate of a fresh CA, written to DIR/ca.pem, until
// stdin ends. A bare QEMU's own network calls loopback 10.0.2.2. It prints {"port":N}, and for each line that it reads
// how many connections it had until then, how many of these resumed a TLS session, and how many requests.
func serveUpstream(dir string) error {
	certificate, err := issue(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: http.HandlerFunc(respond),
		// A client that hangs up in mid-handshake is no news.
		ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{
			Certificates:     []tls.Certificate{certificate},
			NextProtos:       []string{"http/1.1"},
			CurvePreferences: []tls.CurveID{tls.X25519},
			// Not every proxy resumes sessions; so none can.
			SessionTicketsDisabled: true,
		},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, first, &sync.Once{})
		},
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(answer{"port": listener.Addr().(*net.TCPAddr).Port}); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		counts := answer{"connections": connections.Load(), "resumed": resumed.Load(), "requests": requests.Load()}
		if err := out.Encode(counts); err != nil {
			return err
		}
	}
	return in.Err()
}

type contextKey int

// first marks a connection until its first request.
const first contextKey = 0

var connections, resumed, requests atomic.Int64

func count(r *http.Request) {
	requests.Add(1)
	r.Context().Value(first).(*sync.Once).Do(func() {
		connections.Add(1)
		if r.TLS.DidResume {
			resumed.Add(1)
		}
	})
}

var small = []byte(`{"id":"bench","text":"a small answer of the size of many API replies","usage":{"in":12,"out":34}}`)

// respond: /close ends its connection; GET /hold sends one byte and waits for the client to go; POST counts; anything else is a small answer.
func respond(w http.ResponseWriter, r *http.Request) {
	count(r)
	if r.URL.Path == "/close" {
		w.Header().Set("Connection", "close")
	}
	switch {
	case r.URL.Path == "/hold":
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write([]byte("."))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case r.Method == http.MethodPost:
		count, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%d", count)
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(small)
	}
}

func issue(caFile string) (tls.Certificate, error) {
	var none tls.Certificate
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return none, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench upstream CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return none, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return none, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "bench.internal"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		DNSNames: []string{"bench.internal", "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 0, 2, 2)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return none, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, os.WriteFile(caFile, text, 0o644)
}
