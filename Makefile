# make demo    the whole product on this machine, on real traffic, in about two minutes (root)
# make test    every test: unit, property, golden vectors, corpora, simulation, and the lab with each engine
#              (root for the lab)
# make lint    formatting, clippy, documentation; warnings are errors
# make bench   the TUN engine against nftables and nginx, what one core does by XDP beside the kernel's
#              own, a join proxy's crash in the lab, and membership in the simulator: at a tenth of the
#              size, or, as the goals ask, at 20,000 proxies and 24 simulated hours, which takes hours:
#              make bench SIM_BENCH=
#              writes target/bench/tun.json, xdp.json and overlay.json (root)
# make soak    random faults in the simulator, until stopped or a seed fails; prints the seed
# make fuzz    every decoder under cargo-fuzz, FUZZ_SECONDS each (needs a nightly toolchain)

SHELL := /bin/bash
CARGO ?= cargo
FUZZ_SECONDS ?= 600
SIM_BENCH ?= --quick
FUZZ_TARGETS := geneve overlay_message agent_message packet_tun packet_tunnel

.PHONY: all build deps demo test lint fmt bench soak fuzz clean

all: build

deps:
	@deploy/install-deps.sh

build:
	$(CARGO) build --release --workspace

demo: deps
	$(CARGO) build --release --workspace --bins
	target/release/pias-lab demo

test: deps
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace --no-fail-fast
	PIAS_LAB_ENGINE=xdp $(CARGO) test --workspace --test scenarios --no-fail-fast

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

bench: deps
	$(CARGO) build --release --workspace --bins
	target/release/pias-lab bench --output target/bench/tun.json
	target/release/pias-lab bench-xdp --output target/bench/xdp.json
	target/release/pias-lab bench-failover --output target/bench/overlay.json
	target/release/pias-sim bench $(SIM_BENCH) --output target/bench/overlay.json

# The first seed is the time, so that each run explores others.
soak:
	$(CARGO) build --release -p pias-sim
	target/release/pias-sim check --seeds 0 --first $$(date +%s)00000

fuzz:
	@for target in $(FUZZ_TARGETS); do \
		$(CARGO) +nightly fuzz run --fuzz-dir fuzz/libfuzzer $$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=5 -rss_limit_mb=2048 || exit 1; \
	done

clean:
	$(CARGO) clean
