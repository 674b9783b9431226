# The stream on the sample log: a real Kafka, a worker with all three stages, a log produced, updates read.
# `make demo-stream` runs it. Texts come from the server of INTERESTREAM_LLM_URL (make vllm) where one is set, else
# from statistics.
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
finish() {
    [ -z "$worker" ] || kill "$worker" 2> /dev/null || true
    [ -z "$worker" ] || wait "$worker" || true
    "$python" deploy/kafka/node.py stop --folder "$folder/kafka"
}
trap finish EXIT
interestream topics create

say "2. The agent: ingest, interest and fusion in one worker (its log: $folder/agent.log)"
interestream agent 2> "$folder/agent.log" &
worker=$!

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
