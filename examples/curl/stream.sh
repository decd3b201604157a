#!/usr/bin/env bash
# One video over plain HTTP, with progress as server-sent events: stream.sh PICTURE VIDEO [REQUEST]
# The events go to standard error. Triton does not notice an HTTP client that goes away, so Ctrl-C does not cancel
# the request on the server; over gRPC it does.
# The server must have HTTP: zoetrope serve REPOSITORY --triton-http
set -euo pipefail
picture=$1 video=$2 request=${3:-"{}"}
server=${ZOETROPE_HTTP_URL:-http://127.0.0.1:8000}

answer=$(mktemp)
trap 'rm -f "$answer" "$video.part"' EXIT

body() {
  printf '{"image": "%s", "request": "%s"}' \
    "$(base64 < "$picture" | tr -d '\n')" "$(printf '%s' "$request" | sed 's/[\\"]/\\&/g')"
}

# Each line `data: {...}` is one response. What it says is JSON in a JSON string; what it carries is a piece of the
# video, and all pieces joined in order are the base64 of the file.
said='s/^data:.*"event":"\({\(\\.\|[^"\\]\)*\)".*/\1/p'
carried='s/^data:.*"video":"\([^"]\{1,\}\)".*/\1/p'
body | curl -sSN --data-binary @- -H 'Content-Type: application/json' \
  "$server/v2/models/image_to_video/generate_stream" |
  tee "$answer" >(sed -un "$said" | sed -u 's/\\"/"/g' >&2) |
  sed -n "$carried" | tr -d '\n' | base64 -d > "$video.part"
if ! grep -qF '\"type\": \"done\"' "$answer"; then
  echo "no video" >&2
  exit 1
fi
mv "$video.part" "$video"
