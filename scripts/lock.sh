#!/usr/bin/env bash
# Pin the newest versions that pyproject.toml allows, as lines of name==version in requirements/*.lock.
# Four layers, so that a demo does not wait for test tools, and so that nothing is ever built with an unpinned tool.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/venv"
pip=("$scratch/venv/bin/python" -m pip --quiet --disable-pip-version-check)
: > "$scratch/pinned"

# pin LAYER REQUIREMENT...: install them, and write down what that added to the layers before it.
pin() {
    local layer="$1"
    shift
    echo "lock: requirements/$layer.lock"
    "${pip[@]}" install --upgrade --no-build-isolation "$@"
    "${pip[@]}" freeze --all | grep -v '^pip==' | sort -f > "$scratch/now"
    comm -13 <(sort "$scratch/pinned") <(sort "$scratch/now") | sort -f > "requirements/$layer.lock"
    cp "$scratch/now" "$scratch/pinned"
}

# declared EXPRESSION: the requirements that pyproject.toml lists there, one a line.
declared() {
    "$python" -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))$1, sep='\n')"
}

mapfile -t build < <(declared "['build-system']['requires']")
mapfile -t runtime < <(declared "['project']['dependencies']")
mapfile -t test < <(declared "['project']['optional-dependencies']['test']")
mapfile -t fuzz < <(declared "['project']['optional-dependencies']['fuzz']")
pin build "${build[@]}" Cython setuptools_scm    # the last two build pyfuse3, which comes as source
pin runtime "${runtime[@]}"
pin test "${test[@]}"
pin fuzz "${fuzz[@]}"
