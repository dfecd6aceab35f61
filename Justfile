# One recipe for each thing a person does: `just` lists them. CI runs scripts/test.

set positional-arguments

# Puts CMake and libclang to use where scripts/setup installed them into .tools/.
tools := 'eval "$(scripts/setup --env)" &&'

_list:
    @{{ just_executable() }} --list --unsorted

# Build what is missing and run threadrunner: just run "Why is the sky blue?"
run *ARGS:
    scripts/quickstart "$@"

# Install CMake and libclang where they are missing
setup:
    scripts/setup

# The three programs, for this processor; --portable for any x86-64 with AVX2
build *OPTIONS:
    scripts/build-engine {{ OPTIONS }}

# Copy the three programs to ~/.local/bin
install *ARGS:
    scripts/install "$@"

# Everything that CI checks
test:
    scripts/test

# The tests of the dummy backend alone: no C++, seconds instead of minutes
test-quick *ARGS:
    cargo build --workspace --bins
    cargo test --workspace "$@"

# Formatting and lints
lint:
    cargo fmt --all --check
    {{ tools }} cargo clippy --workspace --all-targets --all-features -- -D warnings

fmt:
    cargo fmt --all

# The pages of the code's documentation
doc:
    {{ tools }} cargo doc --workspace --no-deps --all-features --document-private-items

# Licences, advisories, bans: needs `cargo install --locked cargo-deny`
deny:
    cargo deny --all-features check

# Record the terminal session of the README anew
demo:
    scripts/record-demo
