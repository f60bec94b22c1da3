// The Lab of proto/demo/v1/demo.proto as a grpc-go server: an ordinary one, that knows nothing of browsers.
package main

//go:generate protoc -I ../../proto --go_out=. --go-grpc_out=. --go_opt=module=bidiway.example/lab --go-grpc_opt=module=bidiway.example/lab --go_opt=Mdemo/v1/demo.proto=bidiway.example/lab/demopb --go-grpc_opt=Mdemo/v1/demo.proto=bidiway.example/lab/demopb demo/v1/demo.proto

import (
	"flag"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"bidiway.example/lab/demopb"
)

func main() {
	address := flag.String("address", "127.0.0.1:50052", "where to listen; port 0 takes a free one")
	minPing := flag.Duration("min-ping", 0, "the least time between a client's pings; 0: grpc-go's five minutes")
	maxAge := flag.Duration("max-age", 0, "how long connections are kept; 0: for ever")
	flag.Parse()
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: *minPing}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: *maxAge}),
	)
	demopb.RegisterLabServer(server, &lab{tallies: tallies{byTag: map[string]*tally{}}})
	fmt.Println("listening on", listener.Addr())
	log.Fatal(server.Serve(listener))
}
