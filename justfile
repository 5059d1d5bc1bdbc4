# Everything CI and people run.  `just` comes with `pip install '.[test]'`.

set shell := ["bash", "-euo", "pipefail", "-c"]

# What bindgen wants of a bare cargo; values the user set stay.
libclang := 'eval "$(python packaging/backend/veilnet_build.py)"'
debian_tools := "nft:nftables iperf3:iperf3 tcpdump:tcpdump ip:iproute2 ping:iputils-ping curl:curl setpriv:util-linux"

# The list of recipes.
@_default:
    just --list --unsorted

# Everything a developer needs in the active virtual environment.
setup:
    python -m pip install --quiet '.[test]'

# Rebuild the extension in place; Python files are then used from the tree.
develop:
    {{ libclang }}; maturin develop --release

# Format Python and Rust.
fmt:
    ruff format .
    ruff check --fix --select I --quiet .
    cargo fmt --all

# Style, formatting, and what clippy denies on packet paths.
lint:
    ruff check .
    ruff format --check --quiet .
    python bench/goals.py --check > /dev/null
    cargo fmt --all --check
    cargo metadata --locked --format-version 1 > /dev/null
    {{ libclang }}; cargo clippy --quiet --release --workspace --all-targets -- -D warnings
    @if cargo deny --version > /dev/null 2>&1; then cargo deny check bans licenses sources; \
    else echo "lint: cargo-deny is not installed, licences and bans were not checked" >&2; fi

# mypy, strict.
type:
    mypy

# All tests: Rust, then Python against the installed package.
test: test-rust test-python test-netns

# Everything in Python that needs no network.
test-python:
    python -m pytest -q --ignore tests/netns

# The crates that know nothing of Python; the binding crate is tested from Python.
test-rust:
    {{ libclang }}; cargo test --quiet --release --workspace --exclude veilnet-py --tests

# The real program in network namespaces, one test at a time.
test-netns *args: _debian
    python -m pytest -q tests/netns {{ args }}

# Every benchmark, or the named one: `just bench throughput --quick`.
bench name="all" *args: _debian
    if [ {{ quote(name) }} = all ]; then \
        for file in bench/*.py; do \
            if [ "$file" != bench/goals.py ] && grep -q __main__ "$file"; then \
                python "$file" {{ args }}; \
            fi; \
        done; \
    else python bench/{{ name }}.py {{ args }}; fi

# Every goal with its last figure, met or not.
goals *args:
    python bench/goals.py {{ args }}

# A small network on this machine: handshake, traffic, a relay taking over.
demo *args:
    veilnet demo {{ args }}

# What only Debian has: installed when root, otherwise named in one line.
@_debian:
    missing=(); \
    for pair in {{ debian_tools }}; do \
        command -v "${pair%%:*}" > /dev/null || missing+=("${pair##*:}"); \
    done; \
    if (( ${#missing[@]} == 0 )); then exit 0; fi; \
    if (( EUID == 0 )) && command -v apt-get > /dev/null; then \
        log=$(mktemp); \
        if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes \
               --no-install-recommends "${missing[@]}"; } > "$log" 2>&1; then \
            tail -n 5 "$log" >&2; echo "could not install: ${missing[*]}" >&2; \
        fi; \
        rm -f "$log"; \
    else \
        echo "not installed, so some tests will skip: ${missing[*]}" >&2; \
    fi
