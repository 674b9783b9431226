"""The tables of this layer: vectors, centroids, user representations, activations, behaviour banks, adaptations."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, LargeBinary, Table, Text

from interest.store.tables import metadata

# Tables of vectors have rowids: without, SQLite gives every row of more than 1,002 bytes a page of 4 KiB to itself.

# One row per interest and encoder: the text encoder's view of the summary and of the shift.
vectors = Table(
    "vectors",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("prompt_version", Text, primary_key=True),
    Column("encoder", Text, primary_key=True),  # encoder id: name and hash of its weights
    Column("summary", LargeBinary, nullable=False),  # float16, little endian, (d,)
    Column("shift", LargeBinary),  # the same; NULL for a user's first partition
)

# One row per text encoder and item text (fusion/interests/item_vectors.py): items that read alike share it, and one
# whose text changes leads to another row.
item_vectors = Table(
    "item_vectors",
    metadata,
    Column("encoder", Text, primary_key=True),  # encoder id
    Column("key", LargeBinary, primary_key=True),  # 16 bytes: hash of the text, as the template made it
    Column("vector", LargeBinary, nullable=False),  # float16, little endian, (d,)
)

# One row per closed partition, text encoder and template of item texts (fusion/interests/centroids.py).
centroids = Table(
    "centroids",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("encoder", Text, primary_key=True),  # encoder id
    Column("template", Text, primary_key=True),  # how an item reads
    Column("liked", LargeBinary),  # float16, little endian, (d,): of the liked items' texts; NULL: none has a vector
    Column("disliked", LargeBinary),  # the same of those that were not
)

# One row per modality and item (fusion/features/modalities.py): vectors that the user brought, such as a picture's.
item_modalities = Table(
    "item_modalities",
    metadata,
    Column("modality", Text, primary_key=True),
    Column("item_id", Text, primary_key=True),
    Column("vector", LargeBinary, nullable=False),  # float16, little endian, (w,)
)

# One row per user, partition and artifact: valid from that partition's closing until the next one's.
representations = Table(
    "representations",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("index", Integer, primary_key=True, autoincrement=False),  # the newest partition it has seen
    Column("artifact", Text, primary_key=True),  # artifact id, or "pooled:<encoder id>" before anything is trained
    Column("vector", LargeBinary, nullable=False),  # float32, little endian, (d,)
    # By an artifact with a common space (fusion/serving/common_space.py), as of the partition's last behaviour:
    Column("common", LargeBinary),  # float32, little endian, (K,): the user in that space
    Column("common_sums", LargeBinary),  # float64, little endian, (2 K + 2,): what the next partition adds to
)

# Which trained artifact the stream's representations come from: the row with the greatest number.
activations = Table(
    "activations",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("artifact", Text, nullable=False),  # artifact id, or empty: pooled vectors again
    Column("folder", Text, nullable=False),  # where the workers find it
    sqlite_with_rowid=False,
)

# The behaviour banks (fusion/bank/vectors.py): one row per recipe, with what fillers asked of it.
banks = Table(
    "banks",
    metadata,
    Column("id", Text, primary_key=True),  # the recipe's
    Column("recipe", Text, nullable=False),  # JSON
    Column("width", Integer, nullable=False),  # d
    Column("asked", BigInteger, nullable=False),  # texts that fillers looked for
    Column("computed", BigInteger, nullable=False),  # of these, how many took a forward pass
    Column("behaviors", BigInteger, nullable=False),  # behaviours and distinct texts, when last filled as a whole
    Column("texts", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# One row per text and recipe. Without a vector it is a claim: a filler is computing it, or died while it did.
bank_vectors = Table(
    "bank_vectors",
    metadata,
    Column("bank", Text, primary_key=True),
    Column("key", LargeBinary, primary_key=True),  # 16 bytes: hash of recipe and text
    Column("vector", LargeBinary),  # float16, little endian, (d,)
    Column("owner", Text),  # the filler that claims it
    Column("until", Float(53)),  # when its claim lapses, by its clock
)

# One row per user and bank (fusion/bank/watermarks.py): the bank has the texts of the user's behaviours up to this one.
bank_marks = Table(
    "bank_marks",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("bank", Text, primary_key=True),
    Column("seq", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# The language models that were adapted to this store (fusion/adaptation/register.py), and whom each learnt from.
adaptations = Table(
    "adaptations",
    metadata,
    Column("id", Text, primary_key=True),  # the record's, @, and a hash of the folder
    Column("folder", Text, nullable=False),
    Column("base", Text, nullable=False),  # the base model's name
    Column("cut", Float(53), nullable=False),  # event time: what it learnt from is older
    Column("users", Integer, nullable=False),  # it learnt from, at first
    Column("forgotten", Integer, nullable=False),  # of them, since
    sqlite_with_rowid=False,
)
adaptation_users = Table(
    "adaptation_users",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("adaptation", Text, primary_key=True),
    sqlite_with_rowid=False,
)
