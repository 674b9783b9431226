# The main job on the sample log, end to end; `make demo` runs it. Run again, it goes on where it stopped.
set -eu
folder=${1:-demo}
sample="${INTERESTREAM_CACHE:-$HOME/.cache/interestream}/ml-100k"
# int8 where CTranslate2 is installed: a quarter to a half more tokens a second, and as many texts that are kept
backend=auto
user=405 # the longest history of ML-100K: 737 ratings
mkdir -p "$folder"
export INTERESTREAM_STORE="sqlite:///$folder/interestream.db"

say() { if [ -n "${NO_COLOR:-}" ]; then printf '\n%s\n' "$*"; else printf '\n\033[1m%s\033[0m\n' "$*"; fi; }

say "1. Replay 100,000 ratings; SmolLM2 writes the interests of the 8 longest users, MiniLM encodes them"
interestream replay "$sample/ml-100k.inter" --items "$sample/ml-100k.item" --users "$sample/ml-100k.user" --noun film,films --users-limit 8 --prompt-version plain-2 --llm-backend "$backend"

say "2. Train DIN on the short-term caches and the interest vectors"
interestream train din --interest yes --out "$folder/din"

say "3. Score five films for user $user: Star Wars, Fargo, Toy Story, The English Patient, and one nobody knows"
interestream score "$folder/din" --user $user --items 50,100,1,286,no-such-film

say "4. What user $user's history says, period by period"
interestream timeline $user

say "5. What it took"
interestream stats

say "6. See it in a browser: make serve, then http://127.0.0.1:8091/?user=$user"
