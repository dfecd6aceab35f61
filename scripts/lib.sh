# shellcheck shell=bash
# Functions and variables for the scripts beside it, which source it; sourcing runs nothing else.
# Messages go to stderr, so that a script's stdout stays data.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS="$ROOT/.tools"

say() { printf '%s\n' "$*" >&2; }

step() { printf '==> %s\n' "$*" >&2; }

# die MESSAGE [WHAT TO DO]...
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    local line
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}

# Runs a verbose command: silent if it succeeds, its last lines if it fails.
quietly() {
    local log status=0
    log=$(mktemp) || die "cannot write to ${TMPDIR:-/tmp}" "Free some space there, or set TMPDIR."
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then tail -n 15 "$log" | sed 's/^/    /' >&2; fi
    rm -f "$log"
    return "$status"
}

# at_least HAVE WANTED: compares dotted versions.
at_least() { [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# need_space DIRECTORY MEGABYTES WHAT-FOR
need_space() {
    local free
    free=$(df -Pm "$1" 2>/dev/null | awk 'NR == 2 { print $4 }')
    [ -z "$free" ] || [ "$free" -ge "$2" ] || die \
        "$1 has $free MB free, but $3 needs $2 MB" \
        "Free some space and run the command again; it resumes where it stopped."
}

# first_match PATTERN...: prints the first path that exists; the caller's shell expands patterns.
first_match() {
    local path
    for path in "$@"; do
        if [ -e "$path" ]; then
            printf '%s\n' "$path"
            return 0
        fi
    done
    return 1
}

# Finds the libclang that bindgen would find without asking clang: it looks in these places too.
find_libclang() {
    if [ -n "${LIBCLANG_PATH:-}" ]; then
        first_match "$LIBCLANG_PATH"/libclang.so* "$LIBCLANG_PATH"/libclang-*.so* && return
        [ -f "$LIBCLANG_PATH" ] && printf '%s\n' "$LIBCLANG_PATH" && return
    fi
    first_match /usr/lib/llvm-*/lib/libclang.so* /usr/lib/llvm-*/lib/libclang-[0-9]*.so* \
        /usr/lib/*/libclang.so* /usr/lib/*/libclang-[0-9]*.so* \
        /usr/lib/libclang.so* /usr/lib64/libclang.so* /usr/local/lib/libclang.so* \
        /usr/lib64/llvm*/lib/libclang.so*
}

# Finds the headers that belong to a libclang (stdbool.h and others); PyPI's package has none.
find_clang_headers() {
    first_match "$(dirname "$1")"/clang/*/include/stdbool.h \
        /usr/lib/llvm-*/lib/clang/*/include/stdbool.h \
        /usr/lib/clang/*/include/stdbool.h /usr/lib64/clang/*/include/stdbool.h
}

# Makes the tools in .tools/ usable. Variables that the caller has set take precedence.
use_tools() {
    local bin="$TOOLS/python/cmake/data/bin" native="$TOOLS/python/clang/native" libclang
    if [ -x "$bin/cmake" ]; then export PATH="$PATH:$bin"; fi
    if [ -x "$TOOLS/python/bin/ninja" ] && ! command -v make >/dev/null; then
        export PATH="$PATH:$TOOLS/python/bin" CMAKE_GENERATOR="${CMAKE_GENERATOR:-Ninja}"
    fi
    if [ -e "$native/libclang.so" ] && [ -z "${LIBCLANG_PATH:-}" ] && ! find_libclang >/dev/null; then
        export LIBCLANG_PATH="$native"
    fi
    # Without clang's own headers bindgen stops at stdbool.h; the compiler's headers work as well.
    if [ -z "${BINDGEN_EXTRA_CLANG_ARGS:-}" ] && libclang=$(find_libclang) &&
        ! find_clang_headers "$libclang" >/dev/null && command -v "${CC:-cc}" >/dev/null; then
        BINDGEN_EXTRA_CLANG_ARGS="-isystem $("${CC:-cc}" -print-file-name=include)"
        export BINDGEN_EXTRA_CLANG_ARGS
    fi
}

# ensure_built [OPTION OF build-engine]...: sets BIN to the folder with the three programs, built
# from these sources for this processor. If nothing has changed since the last build, it does only
# that, without starting cargo. Sets FRESH to yes if it has built, else no.
ensure_built() {
    local stamp="$TOOLS/built${*:+-${*//[^a-zA-Z0-9-]/-}}" processor
    # A native build works only on the processor that it was built on, and a home may move.
    processor=$(grep -m 1 -E '^(flags|Features)' /proc/cpuinfo || uname -m)
    FRESH=no
    if built_and_unchanged "$stamp" "$processor"; then return; fi

    # stdin belongs to the prompt.
    "$ROOT/scripts/setup" </dev/null
    use_tools
    [ -e "$stamp" ] || need_space "$ROOT" 2000 "the build"
    # Older than anything that changes during the build, so that the next run builds such a change.
    : >"$stamp.new"
    BIN=$("$ROOT/scripts/build-engine" "$@" </dev/null) || exit 1
    { [ -n "$BIN" ] && [ -x "$BIN/threadrunner" ]; } ||
        die "scripts/build-engine succeeded, but there is no program in ${BIN:-(no folder named)}" \
            "Remove $ROOT/target* and run this again."
    printf '%s\n' "$BIN" "$processor" >"$stamp"
    touch -r "$stamp.new" "$stamp"
    rm -f "$stamp.new"
    # shellcheck disable=SC2034 # for the scripts that source this
    FRESH=yes
}

built_and_unchanged() {
    local built_for program
    [ -f "$1" ] || return 1
    { read -r BIN && read -r built_for; } <"$1"
    [ "$built_for" = "$2" ] || return 1
    for program in threadrunner threadrunner-daemon threadrunner-engine; do
        [ -x "$BIN/$program" ] || return 1
    done
    # Folders count too: removing a file changes its folder's time.
    [ -z "$(find "$ROOT/crates" "$ROOT/Cargo.toml" "$ROOT/Cargo.lock" "$ROOT/rust-toolchain.toml" \
        "$ROOT/scripts/build-engine" -newer "$1" -print -quit)" ]
}
