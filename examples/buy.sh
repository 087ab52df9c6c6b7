#!/bin/sh
# Buys one product with the command line, downloads it, and keeps the receipt. Safe to run again: the same
# key is the same order.
#
#     export VEILMART_USER=alice VEILMART_PASSWORD_FILE=password VEILMART_PROFILE=profile
#     examples/buy.sh market.json sports PLAN-10K tuesday bought
#
# Files and receipt are named on stdout. What goes wrong is one line on stderr, and the exit code is that of
# the command that failed (`README.md` has the table). Needs `veilmart` and `python3` in the PATH.
set -eu

if [ $# -ne 5 ]; then
    echo "usage: $0 MARKET-FILE MERCHANT SKU KEY FOLDER" >&2
    exit 2
fi
market=$1 merchant=$2 sku=$3 key=$4 folder=$5
at_most=2000 # minor units, such as cents

# get data order_id: a value of the last command's line of JSON, its text or else as JSON.
get() {
    printf '%s' "$answer" | python3 -c '
import json, sys
value = json.load(sys.stdin)
for step in sys.argv[1:]:
    value = value[int(step) if isinstance(value, list) else step]
print(value if isinstance(value, str) else json.dumps(value))' "$@"
}

fail() {
    echo "$(get error code): $(get error message) $(get error hint)" >&2
    exit "$code"
}

# try COMMAND...: runs it, up to three times where its error says that it may succeed later.
try() {
    for pause in 1 5 0; do
        code=0
        answer=$(veilmart "$@" --json) || code=$?
        [ "$code" -ne 0 ] || return 0
        [ "$(get error retryable)" = true ] || break
        sleep "$pause"
    done
    return 1
}

call() {
    try "$@" || fail
}

# Coins and tickets are drawn where the wallet has too few. Better done by a job of its own, hours before:
# what is drawn and spent at once is easier to tie to you.
funded() {
    try "$@" && return
    case $(get error code) in
    out_of_tickets | insufficient_funds) ;;
    *) fail ;;
    esac
    failed=$answer failed_code=$code
    call wallet
    if [ "$(get data young_tickets)" -gt 0 ]; then
        answer=$failed code=$failed_code # what was drawn has to rest first; the error says how long
        fail
    fi
    call login "$VEILMART_USER" --password-file "$VEILMART_PASSWORD_FILE"
    # Where the market keeps account and shops apart in time, a visit of a moment ago stands in the way.
    try withdraw --yes || { [ "$(get error code)" = too_soon ] && call withdraw --yes --now; } || fail
    call "$@"
}

# Where VEILMART_KEY_FILE names a file, that opens the wallet; otherwise whoever can read the profile does.
if ! [ -e "${VEILMART_PROFILE:?}/market.json" ]; then
    if [ -n "${VEILMART_KEY_FILE:-}" ]; then call join "$market"; else call join "$market" --no-passphrase; fi
fi
funded show "$merchant" "$sku"
if [ "$(get data price)" -gt "$at_most" ]; then
    echo "$sku costs more than $at_most" >&2
    exit 4
fi
funded buy "$merchant" "$sku" --yes --idempotency-key "$key"
order=$(get data orders 0 order_id)
call download "$order" --to "$folder"
get data files 0 path
call receipt "$order" --out "$folder/receipt-$order.json"
get data path
