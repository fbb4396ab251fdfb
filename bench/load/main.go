// The load program of ./dev bench: one HTTPS upstream, and an agent that measures from where it is started (on the
// bare machine, inside a session, inside a peer's sandbox). The agent reads one JSON order a line on stdin and answers
// with one JSON line on stdout.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

func main() {
	var err error
	switch {
	case os.Getpid() == 1 && len(os.Args) == 1:
		err = runGuest()
	case len(os.Args) == 3 && os.Args[1] == "upstream":
		err = serveUpstream(os.Args[2])
	case len(os.Args) == 2 && os.Args[1] == "agent":
		err = obey(os.Stdin, os.Stdout)
	default:
		err = fmt.Errorf("usage: load upstream DIR | load agent")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// order is what the bench asks of the agent. Fields are read by the operations that need them.
type order struct {
	Op      string   `json:"op"`
	URL     string   `json:"url"`
	CA      string   `json:"ca"`
	Proxy   string   `json:"proxy"`
	Clients int      `json:"clients"`
	Seconds float64  `json:"seconds"`
	Fresh   bool     `json:"fresh"`
	Bytes   int64    `json:"bytes"`
	Flows   int      `json:"flows"`
	Argv    []string `json:"argv"`
	Dir     string   `json:"dir"`
	Path    string   `json:"path"`
	Files   int      `json:"files"`
}

type answer map[string]any

var operations = map[string]func(order) (answer, error){
	"get": get, "post": post, "hold": hold, "release": release,
	"exec": execute, "create": create, "read": readFile, "write": writeFile,
}

func obey(from io.Reader, to io.Writer) error {
	in := bufio.NewReader(from)
	out := json.NewEncoder(to)
	if err := out.Encode(answer{"ready": true}); err != nil {
		return err
	}
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return nil // the bench has gone
		}
		var o order
		if err := json.Unmarshal(line, &o); err != nil {
			return err
		}
		operation, known := operations[o.Op]
		if !known {
			return fmt.Errorf("no operation %q", o.Op)
		}
		result, err := operation(o)
		if err != nil {
			result = answer{"error": err.Error()}
		}
		if err := out.Encode(result); err != nil {
			return err
		}
	}
}
