# The stream on the sample log: a real Kafka, a worker with all three stages, a log produced, updates read.
# `make demo-stream` runs it. Texts come from the server of INTERESTREAM_LLM_URL (make vllm) where one is set, else
# from statistics. A service and the live page show it in a browser meanwhile.
set -eu
folder=${1:-demo}
python=$(command -v python)
sample="${INTERESTREAM_CACHE:-$HOME/.cache/interestream}/ml-100k"
mkdir -p "$folder"
export INTERESTREAM_KAFKA="127.0.0.1:${STREAM_DEMO_PORT:-9592}"
export INTERESTREAM_STORE="sqlite:///$folder/stream.db"
export INTERESTREAM_LLM_NOUN=film,films
export INTERESTREAM_AGENT_PORT=0

say() { if [ -n "${NO_COLOR:-}" ]; then printf '\n%s\n' "$*"; else printf '\n\033[1m%s\033[0m\n' "$*"; fi; }

say "1. A one-node Kafka, and the topics"
"$python" deploy/kafka/node.py start --folder "$folder/kafka" --port "${STREAM_DEMO_PORT:-9592}"
worker=
serve=
finish() {
    [ -z "$worker" ] || kill "$worker" 2> /dev/null || true
    [ -z "$worker" ] || wait "$worker" || true
    [ -z "$serve" ] || kill "$serve" 2> /dev/null || true
    [ -z "$serve" ] || wait "$serve" || true
    "$python" deploy/kafka/node.py stop --folder "$folder/kafka"
}
trap finish EXIT
interestream topics create

say "2. The agent: ingest, interest and fusion in one worker (its log: $folder/agent.log)"
interestream agent 2> "$folder/agent.log" &
worker=$!

page="http://127.0.0.1:${PAGE_PORT:-8091}"
INTERESTREAM_SERVE_WRITES=kafka interestream serve --port "${SERVE_PORT:-8090}" --page --page-port "${PAGE_PORT:-8091}" 2> "$folder/serve.log" &
serve=$!
echo "Watch it in a browser: $page/stream (log: $folder/serve.log)"

say "3. 100,000 ratings and 1,682 films are produced, as a service would do it"
interestream replay "$sample/ml-100k.inter" --items "$sample/ml-100k.item" --users "$sample/ml-100k.user" --kafka

say "4. The agent works; how far each stage is"
until interestream lag --max 0 > "$folder/lag.txt"; do
    kill -0 "$worker" || { cat "$folder/agent.log"; exit 1; }
    sleep 2
done
cat "$folder/lag.txt"

say "5. What a subscriber reads"
interestream subscribe --user 405 --from beginning --no-follow | head -40

say "6. The same in the store"
interestream stats

say "7. Live: a visitor rates three films a second for a minute; watch $page/?user=visitor"
visitor="$folder/visitor.inter"
head -1 "$sample/ml-100k.inter" > "$visitor"
awk -F '\t' -v OFS='\t' '$1 == 405 { $1 = "visitor"; print }' "$sample/ml-100k.inter" | sort -n -k 4 | head -180 >> "$visitor"
interestream replay "$visitor" --kafka --rate 3/s
until interestream lag --max 0 > "$folder/lag.txt"; do
    kill -0 "$worker" || { cat "$folder/agent.log"; exit 1; }
    sleep 2
done
interestream timeline visitor
if [ -t 0 ]; then
    printf '\nThe page stays at %s until you press Enter. ' "$page"
    read -r _
fi
