# The scoring service, new texts by SmolLM2 and the live page on what `make demo` made; `make serve` runs it.
# Ctrl-C ends all. A partition that closes has its text first; in between come those that the demo left out.
set -eu
folder=${1:-demo}
if [ ! -f "$folder/interestream.db" ] || [ ! -f "$folder/din/config.json" ]; then
    echo "there is no demo in $folder yet: run make demo first" >&2
    exit 2
fi
llm="${INTERESTREAM_CACHE:-$HOME/.cache/interestream}/smollm2-135m-instruct"
export INTERESTREAM_STORE="sqlite:///$folder/interestream.db" INTERESTREAM_LLM_NOUN=film,films
export INTERESTREAM_LLM_BACKEND="${INTERESTREAM_LLM_BACKEND:-auto}"
page=${PAGE_PORT:-8091}
echo "open http://127.0.0.1:$page/?user=405 in a browser; a behaviour appears there when it is posted:" >&2
echo "  curl http://127.0.0.1:${SERVE_PORT:-8090}/v1/behaviors -H 'Content-Type: application/json' \\" >&2
echo "    -d '{\"user_id\": \"405\", \"item_id\": \"50\", \"action\": \"rate\", \"value\": 5, \"at\": '\$(date +%s)'}'" >&2
echo "every 50 of them close a partition, whose text follows in a few seconds" >&2
exec interestream serve --artifact "$folder/din" --port "${SERVE_PORT:-8090}" --page --page-port "$page" \
    --learn --llm "$llm"
