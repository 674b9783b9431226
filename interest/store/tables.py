"""The tables of this layer, as SQLAlchemy Core. Rows are the truth; `deploy/migrations` creates them.

Behaviours are append-only rows keyed (user_id, seq) and partitions are headers over them: every event is written once,
late events just append, and one user is forgotten with one DELETE a table.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text

metadata = MetaData()

# WITHOUT ROWID: the rows of one user lie together and the key is stored once (20 % smaller, same write rate).
behaviors = Table(
    "behaviors",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("item_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("at", Float(53), nullable=False),
    Column("value", Float(53)),
    Column("scene", Text),
    Column("event_id", Text),
    sqlite_with_rowid=False,
)

# Offers that nobody took (an event with the action "offered"): samples of training, and no history.
offers = Table(
    "offers",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("at", Float(53), primary_key=True),
    Column("item_id", Text, primary_key=True),
    Column("scene", Text, primary_key=True),  # empty: none
    Column("seq", Integer, nullable=False),  # of the user's behaviours, as many came before it
    Column("value", Float(53)),
    sqlite_with_rowid=False,
)

partitions = Table(
    "partitions",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("first_seq", Integer, nullable=False),
    Column("last_seq", Integer, nullable=False),
    Column("opened_at", Float(53), nullable=False),
    Column("closed_at", Float(53), nullable=False),
    Column("reason", Text, nullable=False),
    Column("scene", Text),  # null: of all scenes; these three where scenes are kept apart. Empty: without a scene
    Column("previous", Integer),  # the index of the scene's partition before
    Column("members", Integer),  # behaviours inside; null: all of first_seq..last_seq
    Index("partitions_opened", "user_id", "opened_at"),
    sqlite_with_rowid=False,
)

items = Table(
    "items",
    metadata,
    Column("item_id", Text, primary_key=True),
    Column("title", Text, nullable=False),
    Column("categories", Text, nullable=False),  # a JSON list
    Column("attributes", Text, nullable=False),  # a JSON object
    sqlite_with_rowid=False,
)

users = Table(
    "users",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("attributes", Text, nullable=False),  # a JSON object
    sqlite_with_rowid=False,
)

interests = Table(
    "interests",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("prompt_version", Text, primary_key=True),
    Column("summary", Text, nullable=False),
    Column("summary_source", Text, nullable=False),
    Column("summary_outcome", Text, nullable=False),
    Column("shift", Text, nullable=False),
    Column("shift_source", Text, nullable=False),
    Column("shift_outcome", Text, nullable=False),
    Column("evidence", Text, nullable=False),  # a JSON list of sequence numbers
    Column("claims", Integer, nullable=False),
    Column("supported", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("at", Float(53), nullable=False),
    sqlite_with_rowid=False,
)

# What the LLM stated about titles of a partition beside its text (prompt knowledge-1): its own knowledge, unchecked.
item_statements = Table(
    "item_statements",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("prompt_version", Text, primary_key=True),
    Column("statements", Text, nullable=False),  # a JSON list of ItemStatement, at least one
)

# What users choose as a rule, frozen (interest/facts/base_rates.py): counts alone, so nothing in it is any user's.
base_rates = Table(
    "base_rates",
    metadata,
    Column("version", Text, primary_key=True),  # a hash of the body
    Column("number", Integer, nullable=False),  # 1, 2, 3... in the order in which they were frozen or imported
    Column("body", Text, nullable=False),  # a msgspec JSON BaseRates
)

# What the LLM says of items (interest/write/describe.py): its own knowledge, unchecked, and no part of the catalogue.
item_descriptions = Table(
    "item_descriptions",
    metadata,
    Column("item_id", Text, primary_key=True),
    Column("text", Text, nullable=False),  # empty where there is none; the outcome says why
    Column("outcome", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("prompt_version", Text, nullable=False),
    Column("told", Text, nullable=False),  # hash of what the prompt told of the item
    Column("attempt", Integer, nullable=False),  # 0, or how often it was asked again
)

# What the LLM answered, under everything that can change the answer; a crash in a cascade costs no call twice.
answers = Table(
    "answers",
    metadata,
    Column("key", Text, primary_key=True),  # hash of model, parameters, schema and input
    Column("user_id", Text, nullable=False, index=True),  # so that `forget` finds it; empty: it is about an item
    Column("reply", LargeBinary, nullable=False),  # a msgspec JSON Reply
    sqlite_with_rowid=False,
)

# What the LLM cost. Counters, not truth: they differ between a replay that was interrupted and one that was not.
usage = Table(
    "usage",
    metadata,
    Column("model", Text, primary_key=True),
    Column("prompt_version", Text, primary_key=True),
    Column("kind", Text, primary_key=True),  # summary, shift, description
    Column("calls", Integer, nullable=False),
    Column("cached", Integer, nullable=False),  # answered from `answers`, no call made
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("seconds", Float(53), nullable=False),  # seconds the model worked, summed over batches
    sqlite_with_rowid=False,
)

# Named counters of the store as a whole. "forgets": users forgotten so far; a writer whose memory is older starts over.
counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
