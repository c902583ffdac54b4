#!/usr/bin/env bash
# Open WebUI as a person uses it, in front of `limner serve`: bash tests/clients/open_webui/run.sh [FOLDER]
# Installs it into .venv-open-webui (7 GB where torch comes with CUDA, 4 GB without), starts both servers on free ports of
# 127.0.0.1, lets talk.mjs sign up and chat in Chromium, and ends both. Screenshots and logs stay in FOLDER (default: runs/open_webui).
set -euo pipefail
cd "$(dirname "$0")/../../.."
out=${1:-runs/open_webui}
mkdir -p "$out"
out=$(realpath "$out")
rm -rf "$out/data"  # a fresh installation: the first who signs up is its administrator
mkdir "$out/data"
bash tests/clients/system_packages.sh
[ -d tests/clients/node_modules ] || (cd tests/clients && npm ci --no-audit --no-fund)
if [ ! -x .venv-open-webui/bin/open-webui ]; then
  "${PYTHON:-python3}" -m venv .venv-open-webui
  .venv-open-webui/bin/python -m pip install --quiet -c tests/clients/open_webui/constraints.txt torch open-webui
fi
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
limner=$(free_port)
webui=$(free_port)
started=()
trap 'kill "${started[@]}" 2> /dev/null || true; wait' EXIT

OMP_NUM_THREADS=2 "${LIMNER_PYTHON:-.venv/bin/python}" -m limner serve --port "$limner" > "$out/limner.log" 2>&1 &
started+=($!)

# it keeps a reply's words alone and sends those back: the header asks for pictures as links in them
export OPENAI_API_BASE_URL="http://127.0.0.1:$limner/v1" OPENAI_API_KEY=none
export OPENAI_API_CONFIGS='{"0": {"headers": {"X-Limner-Picture-Format": "markdown"}}}'
export ENABLE_OLLAMA_API=false DATA_DIR="$out/data" WEBUI_SECRET_KEY=for-this-run
# nothing is fetched from elsewhere: no embedding model, no update, no telemetry; nor is nano asked for titles and tags
export OFFLINE_MODE=true HF_HUB_OFFLINE=1 RAG_EMBEDDING_ENGINE=openai ANONYMIZED_TELEMETRY=false DO_NOT_TRACK=true
export ENABLE_TITLE_GENERATION=false ENABLE_TAGS_GENERATION=false ENABLE_FOLLOW_UP_GENERATION=false
(cd "$out/data" && exec "$OLDPWD/.venv-open-webui/bin/open-webui" serve --host 127.0.0.1 --port "$webui") > "$out/open_webui.log" 2>&1 &
started+=($!)

for address in "127.0.0.1:$limner/ready" "127.0.0.1:$webui/health"; do
  curl --silent --fail --output /dev/null --retry 180 --retry-delay 1 --retry-all-errors "http://$address"
done
OPEN_WEBUI_URL="http://127.0.0.1:$webui" LIMNER_URL="http://127.0.0.1:$limner" LIMNER_SHOTS="$out" \
  node --test tests/clients/open_webui/talk.test.mjs
