package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// execute runs a command and reads all it prints (GNU tar, for one, skips the work when it sees /dev/null).
func execute(o order) (answer, error) {
	command := exec.Command(o.Argv[0], o.Argv[1:]...)
	command.Dir = o.Dir
	var complaint bytes.Buffer
	command.Stderr = &complaint
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := command.Start(); err != nil {
		return nil, err
	}
	count, _ := io.Copy(io.Discard, out)
	if err := command.Wait(); err != nil {
		lines := strings.Split(strings.TrimSpace(complaint.String()), "\n")
		return nil, fmt.Errorf("%s: %w: %.160s", o.Argv[0], err, lines[len(lines)-1])
	}
	took := time.Since(began).Seconds()
	system := command.ProcessState.SystemTime().Seconds()
	return answer{"seconds": took, "system": system, "bytes": count}, nil
}

// create makes o.Files small files in a new directory; removing them is not timed.
func create(o order) (answer, error) {
	dir := filepath.Join(o.Dir, "created")
	defer os.RemoveAll(dir)
	content := []byte(strings.Repeat("x", 100))
	began := time.Now()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	for i := range o.Files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%d.txt", i)), content, 0o644); err != nil {
			return nil, err
		}
	}
	return answer{"seconds": time.Since(began).Seconds()}, nil
}

func readFile(o order) (answer, error) {
	began := time.Now()
	file, err := os.Open(o.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	buffer := make([]byte, 1<<20)
	var count int64
	for {
		n, err := file.Read(buffer)
		count += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return answer{"seconds": time.Since(began).Seconds(), "bytes": count}, nil
}

// writeFile writes o.Bytes and closes the file, which is when a view records it; removing it is not timed.
func writeFile(o order) (answer, error) {
	defer os.Remove(o.Path)
	buffer := bytes.Repeat([]byte("a line of sixteen"), 1<<16)[:1<<20]
	began := time.Now()
	file, err := os.Create(o.Path)
	if err != nil {
		return nil, err
	}
	for left := o.Bytes; left > 0; left -= int64(len(buffer)) {
		if _, err := file.Write(buffer[:min(int64(len(buffer)), left)]); err != nil {
			file.Close()
			return nil, err
		}
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	return answer{"seconds": time.Since(began).Seconds(), "bytes": o.Bytes}, nil
}
