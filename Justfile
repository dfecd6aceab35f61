# Recipes for people: `just` lists them. CI runs scripts/test.

set positional-arguments

# Puts CMake and libclang on the path if scripts/setup installed them into .tools/.
tools := 'eval "$(scripts/setup --env)" &&'

_list:
    @{{ just_executable() }} --list --unsorted

# Build what is missing and run threadrunner: just run "Why is the sky blue?"
run *ARGS:
    scripts/quickstart "$@"

# Install CMake and libclang if they are missing
setup:
    scripts/setup

# Build the three programs for this processor, or with --portable for any x86-64 with AVX2
build *OPTIONS:
    scripts/build-engine {{ OPTIONS }}

# Copy the three programs to ~/.local/bin
install *ARGS:
    scripts/install "$@"

# Run everything that CI checks
test:
    scripts/test

# Run the tests with the dummy backend only: no C++, seconds instead of minutes
test-quick *ARGS:
    cargo build --workspace --bins
    cargo test --workspace "$@"

# Check formatting and lints
lint:
    cargo fmt --all --check
    {{ tools }} cargo clippy --workspace --all-targets --all-features -- -D warnings

fmt:
    cargo fmt --all

# Build the API documentation
doc:
    {{ tools }} cargo doc --workspace --no-deps --all-features --document-private-items

# Check licenses, advisories and bans: needs `cargo install --locked cargo-deny`
deny:
    cargo deny --all-features check

# Run clients of every kind while daemon and engines are killed: just soak --seconds 600 --seed 7
soak *ARGS:
    cargo build --workspace --bins
    target/debug/soak "$@"

# Fail the power of a real file system under the daemon, as root: just power --rounds 100 --seed 7
power *ARGS:
    cargo build --release --locked --workspace --bins
    scripts/fail-power "$@"

# Record the README's terminal session again
demo:
    scripts/record-demo

# Measure the command line with the dummy backend; prints the tables
bench-cli *ARGS:
    cargo build --release --locked --workspace --bins
    target/release/bench-cli "$@"

# Measure the queue: submitting, 100,000 queued, a million finished; prints the tables
bench-jobs *ARGS:
    cargo build --release --locked --workspace --bins
    target/release/bench-jobs "$@"

# Compare the daemon with a plain loop over llama.cpp, built with the same flags; prints the tables
bench-engine *ARGS:
    #!/usr/bin/env bash
    set -euo pipefail
    bin=$({{ just_executable() }} _bench-native)
    model=$(scripts/get-model smollm2-135m --dir .cache/models)
    "$bin/bench-engine" --model "$model" "$@"

# Compare the daemon with llama.cpp's own server, built with the same flags; prints the tables
bench-server *ARGS:
    #!/usr/bin/env bash
    set -euo pipefail
    eval "$(scripts/setup --env)"
    server=$(scripts/get-llama-server)
    models=$(scripts/get-bench-models "${server%/*}/llama-quantize")
    bin=$({{ just_executable() }} _bench-native)
    "$bin/bench-server" --llama-server "$server" --models "$models" "$@"

# Builds the two benchmarks above beside the three programs, and prints their folder.
_bench-native:
    #!/usr/bin/env bash
    set -euo pipefail
    eval "$(scripts/setup --env)"
    scripts/build-engine >/dev/null
    # The same flags as for that build, so that both share llama.cpp.
    export CARGO_TARGET_DIR=target/native RUSTFLAGS="${RUSTFLAGS:-} -C target-cpu=native"
    if grep -q -m 1 -w amx_tile /proc/cpuinfo; then
        export CXXFLAGS="${CXXFLAGS:-} -fno-dse -fno-tree-dse"
    fi
    THREADRUNNER_BUILD=native cargo build --release --locked --features llama -p threadrunner-bench >&2
    echo target/native/release

# Fuzz frames, GGUF headers and job directories, for SECONDS each
fuzz SECONDS="60" *TARGETS="frames gguf jobs":
    #!/usr/bin/env bash
    set -euo pipefail
    eval "$(scripts/setup --env)"
    export CARGO_TARGET_DIR="$PWD/target/fuzz"
    cargo run --quiet --locked --manifest-path fuzz/Cargo.toml --bin seeds -- "$CARGO_TARGET_DIR/corpus"
    # The coverage that libFuzzer needs; the stable compiler has it too.
    host=$(rustc -vV | sed -n 's/^host: //p')
    export RUSTFLAGS="${RUSTFLAGS:-} -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
        -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
    fuzz() { cargo build --release --locked --manifest-path fuzz/Cargo.toml --target "$host" "$@"; }
    fuzz --bin frames --bin gguf --bin jobs
    bin="$CARGO_TARGET_DIR/$host/release"
    for target in {{ TARGETS }}; do
        mkdir -p "$CARGO_TARGET_DIR/found"
        "$bin/$target" -max_total_time={{ SECONDS }} -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
            -artifact_prefix="$CARGO_TARGET_DIR/found/$target-" "$CARGO_TARGET_DIR/corpus/$target"
    done
