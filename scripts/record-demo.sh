#!/usr/bin/env bash
# Record what the demo prints, in docs/demo.txt and between the two marks in README.md: record-demo.sh
set -euo pipefail
cd "$(dirname "$0")/.."

TMPDIR=/tmp scripts/demo.sh 2>&1 | sed --regexp-extended 's|/tmp/ghostdump-demo\.\w+|/tmp/demo|g; 1{/^$/d}' > docs/demo.txt

block="$(mktemp)"
trap 'rm -f "$block"' EXIT
printf '```text\n%s\n```\n' "$(cat docs/demo.txt)" > "$block"
sed --in-place --expression '/<!-- demo -->/,/<!-- end of demo -->/{//!d}' --expression "/<!-- demo -->/r $block" README.md
