"""An example of every command, shown at the end of its `--help`."""

from __future__ import annotations

EXAMPLES = {
    "activate": "interestream activate runs/din",
    "agent": "interestream agent --stages ingest,interest --workers 2",
    "bank fill": "interestream bank fill --llm SmolLM2-135M-Instruct --cut 15",
    "bank gc": "interestream bank gc",
    "dead discard": "interestream dead discard behaviors --reason timestamp",
    "dead list": "interestream dead list behaviors --limit 10",
    "dead replay": "interestream dead replay --id behaviors/0/1204 --value mended.json",
    "dead show": "interestream dead show behaviors/0/1204",
    "fetch": "interestream fetch sample encoder",
    "forget": "interestream forget 405 --yes",
    "fuse": "interestream fuse --half-life 8",
    "lag": "interestream lag --max 1000",
    "learn": "interestream learn --llm http://localhost:8000/v1 --llm-model qwen",
    "pretrain fgbert": "interestream pretrain fgbert --out runs/fgbert",
    "replay": "interestream replay ratings.csv --items movies.csv --map value=rating",
    "score": "interestream score runs/din --user 405 --items 50 --items 100",
    "serve": "interestream serve --artifact runs/din --workers 2",
    "settings": "interestream settings --config interestream.toml",
    "stats": "interestream stats --json",
    "subscribe": "interestream subscribe --topic latest --from beginning --no-follow",
    "timeline": "interestream timeline 405 --last 3",
    "topics accept": "interestream topics accept behaviors",
    "topics create": "interestream topics create --dry-run",
    "topics show": "interestream topics show",
    "train bahe": "interestream train bahe --out runs/bahe --tune lora",
    "train din": "interestream train din --out runs/din --label 'value>=4'",
    "train srp4ctr": "interestream train srp4ctr --out runs/srp --pretrained runs/fgbert",
    "worth": "interestream worth --model din --out runs/worth --control shuffled",
}
