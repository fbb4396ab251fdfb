package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// client speaks HTTP/1.1 over TLS. Proxy "env" takes HTTPS_PROXY as it stands, NO_PROXY ignored: the upstream is on
// loopback, which Go would otherwise reach directly. No TLS session cache: each new connection is a full handshake.
func client(o order, connections int) (*http.Client, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if o.CA != "" {
		text, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, err
		}
		roots.AppendCertsFromPEM(text)
	}
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots, CurvePreferences: []tls.CurveID{tls.X25519}},
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
		MaxIdleConnsPerHost: connections,
		DisableKeepAlives:   o.Fresh,
		DisableCompression:  true,
		WriteBufferSize:     64 << 10,
	}
	address := o.Proxy
	if address == "env" {
		address = os.Getenv("HTTPS_PROXY")
	}
	if address != "" {
		proxy, err := url.Parse(address)
		if err != nil {
			return nil, err
		}
		transport.Proxy = http.ProxyURL(proxy)
	}
	return &http.Client{Transport: transport, Timeout: 60 * time.Second}, nil
}

func fetch(c *http.Client, address string) error {
	response, err := c.Get(address)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP %d: %.120s", response.StatusCode, body)
	}
	return nil
}

// get sends requests from o.Clients goroutines for o.Seconds; each kept connection is open before the clock starts.
func get(o order) (answer, error) {
	c, err := client(o, o.Clients)
	if err != nil {
		return nil, err
	}
	defer c.CloseIdleConnections()
	if err := each(o.Clients, func(int) error { return fetch(c, o.URL) }); err != nil {
		return nil, err
	}
	took := make([][]time.Duration, o.Clients)
	began := time.Now()
	end := began.Add(time.Duration(o.Seconds * float64(time.Second)))
	err = each(o.Clients, func(i int) error {
		for time.Now().Before(end) {
			start := time.Now()
			if err := fetch(c, o.URL); err != nil {
				return err
			}
			took[i] = append(took[i], time.Since(start))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	seconds := time.Since(began).Seconds()
	all := slices.Concat(took...)
	slices.Sort(all)
	return answer{
		"rate": float64(len(all)) / seconds,
		"p50":  all[len(all)/2].Seconds() * 1000,
		"p99":  all[len(all)*99/100].Seconds() * 1000,
	}, nil
}

// post uploads o.Bytes in one request on a connection that is already open.
func post(o order) (answer, error) {
	c, err := client(o, 1)
	if err != nil {
		return nil, err
	}
	defer c.CloseIdleConnections()
	if err := fetch(c, o.URL); err != nil {
		return nil, err
	}
	request, err := http.NewRequest(http.MethodPost, o.URL, io.LimitReader(filler{}, o.Bytes))
	if err != nil {
		return nil, err
	}
	request.ContentLength = o.Bytes
	began := time.Now()
	response, err := c.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if string(body) != fmt.Sprint(o.Bytes) {
		return nil, fmt.Errorf("HTTP %d: %.120s", response.StatusCode, body)
	}
	return answer{"rate": float64(o.Bytes) / 1e6 / time.Since(began).Seconds()}, nil
}

// filler is text that compresses and scans like prose, for nothing to recognise.
type filler struct{}

func (filler) Read(p []byte) (int, error) {
	for at := 0; at < len(p); {
		at += copy(p[at:], "the quick brown fox jumps over the lazy dog, then reconciles a ledger of many lines; ")
	}
	return len(p), nil
}

var holding context.CancelFunc
var held sync.WaitGroup

// hold opens o.Flows connections, each in the middle of a response, until release.
func hold(o order) (answer, error) {
	c, err := client(o, o.Flows)
	if err != nil {
		return nil, err
	}
	c.Timeout = 0
	ctx, cancel := context.WithCancel(context.Background())
	holding = cancel
	var open atomic.Int64
	impatient := time.AfterFunc(10*time.Second, cancel)
	defer impatient.Stop()
	err = each(o.Flows, func(int) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL+"/hold", nil)
		if err != nil {
			return err
		}
		response, err := c.Do(request)
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("HTTP %d", response.StatusCode)
		}
		if _, err := response.Body.Read(make([]byte, 1)); err != nil {
			return err
		}
		open.Add(1)
		held.Go(func() {
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		})
		return nil
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%d of %d flows opened in 10 s: %w", open.Load(), o.Flows, err)
	}
	return answer{"held": o.Flows}, nil
}

func release(order) (answer, error) {
	if holding != nil {
		holding()
	}
	held.Wait()
	return answer{"released": true}, nil
}

// each runs f(0..n-1) side by side and returns the first error.
func each(n int, f func(int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}
