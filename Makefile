# make demo    everything once, on a real log with a real small LLM: fetch, replay, train, score, timeline, stats
# make serve   the scoring service, new texts and the live page on what make demo made: http://127.0.0.1:8091 (Ctrl-C ends all)
# make demo-stream   the same log through a real Kafka and the stream agent (Java 17 and Maven)
# make test    all tests (needs what `interestream fetch` puts into the cache, and fetches it)
# make soak    the tests of faults and of replay, long: 30 kills of a worker over 200,000 behaviours (KILL_SEED=N kills as that run did)
# make lint    style, types and layering
# make kafka   a one-node Apache Kafka on port 9092, or `PORT=9192` (Java 17 and Maven); make kafka-stop ends it
# make vllm    a real vLLM server on this machine's CPU with the fetched model, port 8000; make vllm-stop ends it
# make bench   the quick form of every benchmark, one JSON line each

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/interestream
DEMO := demo
PORT ?= 9092
KAFKA_FOLDER := .kafka$(PORT:9092=)
# Most tests of the stream wait for servers: three at a time on two cores, one thread each. Many start processes: without
# bytecode, as where PYTHONDONTWRITEBYTECODE is set, each of them would compile all that it imports.
TEST_PROCESSES ?= 3
export INTERESTREAM_CACHE ?= $(HOME)/.cache/interestream
export TOKENIZERS_PARALLELISM := false

.PHONY: install fetch demo serve demo-stream test soak lint bench clean kafka kafka-stop vllm vllm-install vllm-stop

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[models,kafka,postgres,serve,plot,bench,dev]'
	@touch $@

fetch: install
	$(RUN) fetch

demo: fetch
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh deploy/demo.sh $(DEMO)

serve: install
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh deploy/serve.sh $(DEMO)

demo-stream: fetch
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh deploy/stream_demo.sh $(DEMO)

kafka: install
	$(BIN)/python deploy/kafka/node.py start --port $(PORT) --folder $(KAFKA_FOLDER)

kafka-stop: install
	$(BIN)/python deploy/kafka/node.py stop --folder $(KAFKA_FOLDER)

vllm-install: install
	$(BIN)/python deploy/vllm/server.py install

vllm: fetch vllm-install
	$(BIN)/python deploy/vllm/server.py start

vllm-stop: install
	$(BIN)/python deploy/vllm/server.py stop

test: fetch vllm-install
	$(BIN)/python deploy/kafka/node.py fetch
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(TEST_PROCESSES)

soak: fetch
	$(BIN)/python deploy/kafka/node.py fetch
	SOAK=1 $(BIN)/python -m pytest tests/faults tests/streams/replay

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: fetch vllm-install
	@for file in benchmarks/*.py; do $(BIN)/python $$file --quick || exit 1; done

clean:
	rm -rf $(VENV) .venv-vllm $(DEMO)
