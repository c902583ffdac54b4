#!/usr/bin/env bash
# What the tests of clients need of the system: Node 20 or newer with npm, Chromium, a font with Chinese and Korean, curl and jq.
# Where something is missing on a Debian or Ubuntu that this user may install on, it is installed.
set -euo pipefail
missing=()
command -v node > /dev/null || missing+=(nodejs)
command -v npm > /dev/null || missing+=(npm)
command -v curl > /dev/null || missing+=(curl)
command -v jq > /dev/null || missing+=(jq)
[ -x "${CHROMIUM:-/usr/bin/chromium}" ] || missing+=(chromium)
fc-list 2> /dev/null | grep "Noto Sans CJK" > /dev/null || missing+=(fonts-noto-cjk fontconfig)
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi
