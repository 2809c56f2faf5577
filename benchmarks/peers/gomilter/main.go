// The benchmark's filters on emersion/go-milter.
//
// usage: gomilter ADDRESS noop|tagger|small
package main

import (
	"log"
	"net"
	"os"
	"strings"

	"github.com/emersion/go-milter"
)

// tagger adds the two changes to the library's own filter that answers everything.
type tagger struct{ milter.NoOpMilter }

func (tagger) Body(m *milter.Modifier) (milter.Response, error) {
	if err := m.AddHeader("X-Tagged", "yes"); err != nil {
		return nil, err
	}
	if err := m.ChangeHeader(1, "Subject", "[tagged] minutes"); err != nil {
		return nil, err
	}
	return milter.RespAccept, nil
}

var servers = map[string]milter.Server{
	"noop": {NewMilter: func() milter.Milter { return milter.NoOpMilter{} }},
	"tagger": {
		NewMilter: func() milter.Milter { return tagger{} },
		Actions:   milter.OptAddHeader | milter.OptChangeHeader,
	},
	"small": {
		NewMilter: func() milter.Milter { return milter.NoOpMilter{} },
		Protocol: milter.OptNoConnect | milter.OptNoHelo | milter.OptNoMailFrom |
			milter.OptNoHeaders | milter.OptNoEOH | milter.OptNoBody,
	},
}

// listen takes unix:/path and inet:PORT@HOST.
func listen(address string) (net.Listener, error) {
	if path := strings.TrimPrefix(address, "unix:"); path != address {
		return net.Listen("unix", path)
	}
	port, host, _ := strings.Cut(strings.TrimPrefix(address, "inet:"), "@")
	return net.Listen("tcp", net.JoinHostPort(host, port))
}

func main() {
	listener, err := listen(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := servers[os.Args[2]]
	log.Fatal(server.Serve(listener))
}
