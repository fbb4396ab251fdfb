module ambit/bench/load

go 1.25
