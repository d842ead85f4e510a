# Two commands for a newcomer: `make book` and `make test`. Both set up .venv first, which takes a few minutes once.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
# Two processes with one thread each use two cores best.
WORKERS ?= 2

.PHONY: book teachers-book test lint unit grading-tests class-test kernel-tests book-tests chapter-tests chapters bench clean help

help:
	@echo "make book           render the book to _build/html"
	@echo "make teachers-book  the same, with the solutions of the labs, to _build/teachers/_build/html"
	@echo "make test           check everything: style, unit tests, grader, kernels, the book in a browser, all chapters"
	@echo "make chapters       execute the chapters in place and record their claims"
	@echo "make bench          time ours against the alternatives on this machine"
	@echo "make clean          remove what was built (not .venv)"

$(INSTALLED): requirements.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up .venv (a few minutes, once) ..."
	@$(PYTHON) -m venv .venv \
		|| { echo "No virtual environment could be made. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@# Debian's own pip is too old for an option that requirements.txt needs.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=23.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt \
		|| { echo "learn2learn is compiled: it needs gcc and Python's headers (apt install gcc python3-dev)"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

book: $(INSTALLED)
	@start=$$(date +%s); \
	$(BIN)/jupyter-book build . -n -W --keep-going && \
	echo "Rendered in $$(( $$(date +%s) - start )) s. Open file://$(CURDIR)/_build/html/index.html"

# The same pages and one more, which the configuration leaves out and the contents do not name.
teachers-book: $(INSTALLED)
	@mkdir -p _build/teachers
	@sed -e '/solutions\/\*\*/d' -e 's#: book/_ext#: $(CURDIR)/book/_ext#' _config.yml > _build/teachers/_config.yml
	@sed 's#^\( *\)- file: book/grading#&\n\1- file: solutions/teachers_edition#' _toc.yml > _build/teachers/_toc.yml
	@$(BIN)/jupyter-book build . -n -W --keep-going --config _build/teachers/_config.yml \
		--toc _build/teachers/_toc.yml --path-output _build/teachers

# Every part is timed; the sum is printed at the end.
test: $(INSTALLED)
	@start=$$(date +%s); set -e; \
	for part in lint unit grading-tests class-test kernel-tests book-tests chapter-tests; do \
		begin=$$(date +%s); echo "== $$part"; $(MAKE) --no-print-directory $$part; \
		echo "== $$part passed in $$(( $$(date +%s) - begin )) s"; \
	done; \
	echo "All passed in $$(( $$(date +%s) - start )) s."

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

unit: $(INSTALLED)
	@$(BIN)/python -m pytest tests -n $(WORKERS) --dist loadfile --durations=5 \
		--ignore-glob='*/test_book_*.py' --ignore-glob='*/test_notebooks.py' --ignore=tests/grading --ignore=tests/test_class_of_sixty.py

# What is skipped, and why, is printed: a machine without a sandbox has not tested it.
grading-tests: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/grading -n $(WORKERS) --dist loadfile -rs --durations=5

# By itself, because it is timed: a class of sixty on two cores. What the commands print is shown, with their seconds.
class-test: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_class_of_sixty.py -rsP --durations=1

# Triton's interpreter has to be chosen before Triton is imported: a process of its own. What the unit tests run of the
# same folder compiles the kernels for GPUs that are not here, or runs them on one that is.
kernel-tests: $(INSTALLED)
	@TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/kernels -n $(WORKERS) --dist loadfile --durations=5

book-tests: book
	@$(BIN)/python -m pytest tests/test_book_*.py tests/test_notebooks.py \
		-n $(WORKERS) -rs --durations=3

chapter-tests: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p nbval_claims --nbval --nbval-current-env --sockets-blocked chapters \
		-n $(WORKERS) --dist loadscope --durations=5

chapters: $(INSTALLED)
	@$(BIN)/course run

bench: $(INSTALLED)
	@$(BIN)/course bench sampler
	@$(BIN)/course bench episodes
	@$(BIN)/course bench adaptation
	@$(BIN)/course bench kernels

clean:
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
