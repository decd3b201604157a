#!/usr/bin/env bash
# One video over plain HTTP: unary.sh PICTURE VIDEO [REQUEST], such as unary.sh photo.jpg video.mp4 '{"seed": 7}'
# The server must have HTTP: zoetrope serve REPOSITORY --triton-http
set -euo pipefail
picture=$1 video=$2 request=${3:-"{}"}
server=${ZOETROPE_HTTP_URL:-http://127.0.0.1:8000}

answer=$(mktemp)
trap 'rm -f "$answer" "$video.part"' EXIT

# The picture travels as base64, the request as JSON in a JSON string.
body() {
  printf '{"image": "%s", "request": "%s"}' \
    "$(base64 < "$picture" | tr -d '\n')" "$(printf '%s' "$request" | sed 's/[\\"]/\\&/g')"
}

status=$(body | curl -sS --data-binary @- -H 'Content-Type: application/json' -o "$answer" -w '%{http_code}' \
  "$server/v2/models/image_to_video_unary/generate")
if [ "$status" != 200 ]; then
  cat "$answer" >&2
  exit 1
fi
sed -n 's/.*"video":"\([^"]*\)".*/\1/p' "$answer" | base64 -d > "$video.part"
mv "$video.part" "$video"
