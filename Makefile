# envgate: a gRPC/HTTP gateway for reinforcement learning environments.
#
#   make            builds the program: build/envgate
#   make run        serves on 127.0.0.1:8080 with the environments echo, cartpole and pixels, and says what to type next
#   make test       everything: units, integration with real clients and workers, under asan+ubsan, too; ends with the count
#   make conformance  the suites of others: connectrpc's, grpc-go's interop client and h2spec, which it gets by the Go module proxy; ends with the count
#   make microhttpd1  the HTTP/1 tests with Debian 13's libmicrohttpd, which is stricter, in place of this machine's
#   make lint       clang-format, clang-tidy, include layers, banned functions, buf lint and breaking
#   make bench      CPU-µs a call and calls/s, side by side: worker directly, nginx, envgate REST, envgate gRPC
#   make bench-peers  the same beside haproxy, Envoy and bridges in Rust, Go and Python, which it builds under build/peers
#   make bench-trainer  steps/s of a trainer's loop in Python: OpenEnv's client directly and by the gateway, and envgate.VectorEnv
#   make bench-launch  a worker in docker: cold, warm and 20 at once, beside OpenEnv's own client and the floor
#   make test-image deploy/'s image built from source in a container, on a base of Debian's packages, and run; as root, three minutes
#   make chaos      faults of every kind for CHAOS_SECONDS (600) by CHAOS_SEED (1) while 200 sessions step (docs/CHAOS.md); as root
#   make stubs      a client for each language, to import, in build/stubs (docs/clients)
#   make clients    each of them, grpcurl and @connectrpc/connect against a gateway: the same transcript, and the programs of docs/clients
#   make fuzz       each fuzz target for FUZZ_SECONDS (60)
#   make docs       rewrites what docs/ has from the program's tables and from proto/ (a test compares)
#   make install    to DESTDIR and PREFIX (/usr/local)
#   make deps       what run and test call first: as root installs what is missing (Debian's packages; PyPI's, Go's and npm's into
#                   build/); otherwise says what to install
#   make clean      removes what was built, not what was downloaded; make distclean removes build/
#
#   SAN=asan        address, undefined and leak sanitizers: build/asan/envgate
#   SAN=tsan        thread sanitizer: build/tsan/envgate
#   CC=clang        warning-free under gcc 12 and clang 14
#   JOBS=2          how many compilers run at once
#   V=1             shows the commands
#   T=…             for make test-units, test-integration and clients: a unit's name, pytest's arguments, or clients' names

CC ?= cc
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
SAN ?=
FUZZ_SECONDS ?= 60
CHAOS_SECONDS ?= 600
CHAOS_SEED ?= 1
HIDE := $(if $(V),,@)
QUIET := $(if $(V),@:,@echo ' ')
VERSION := 0.1.0

B := build
OUT := $(B)$(if $(SAN),/$(SAN))
GEN := $(B)/gen
PY := $(B)/venv/bin/python

# --- flags -------------------------------------------------------------------------------------------------------------------------

IS_CLANG := $(findstring clang,$(shell $(CC) --version 2>/dev/null))
WARN := -Wall -Wextra -Wpedantic -Wformat=2 -Wshadow -Wundef -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wconversion \
  -Wnull-dereference -Wwrite-strings -Wcast-qual -Werror \
  $(if $(IS_CLANG),-Wimplicit-fallthrough,-Wduplicated-cond -Wlogical-op -Wimplicit-fallthrough=5)
# OpenSSF's compiler hardening guide
HARDEN := -fstack-protector-strong -fstack-clash-protection -fcf-protection=full -fPIE -fno-delete-null-pointer-checks -fno-strict-overflow
CPPFLAGS += -D_GNU_SOURCE -DENVGATE_VERSION='"$(VERSION)"' -Igateway -isystem $(GEN)
ifeq ($(SAN),asan)
  OPT := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
else ifeq ($(SAN),fuzz)
  OPT := -O1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
else ifeq ($(SAN),tsan)
  OPT := -O1 -fno-omit-frame-pointer -fsanitize=thread
else
  # clang 14 knows no level 3 of fortification
  OPT := -O2 $(HARDEN) -D_FORTIFY_SOURCE=$(if $(IS_CLANG),2,3)
endif
CFLAGS += -std=gnu17 -g $(OPT)
LDFLAGS += $(if $(SAN),$(filter -fsanitize=%,$(OPT)),-pie -Wl,-z,relro,-z,now,-z,noexecstack)
LDLIBS := -lmicrohttpd -lnghttp2 -lcurl -lwslay -lprotobuf-c -lcjson -luv -lssl -lcrypto -lz -lm -lpthread

# --- files -------------------------------------------------------------------------------------------------------------------------

PROTOS := $(sort $(wildcard proto/envgate/v1/*.proto))
SRC := $(sort $(wildcard gateway/*.c gateway/*/*.c))
# What the generator writes is known before it runs, so that one pass of make is enough.
GEN_SRC := $(GEN)/api.c $(GEN)/openapi.c $(PROTOS:proto/%.proto=$(GEN)/%.pb-c.c) \
  $(patsubst %,$(GEN)/google/protobuf/%.pb-c.c,any descriptor duration empty field_mask struct timestamp wrappers) \
  $(patsubst %,$(GEN)/google/rpc/%.pb-c.c,error_details status) $(patsubst %,$(GEN)/google/api/%.pb-c.c,annotations http) \
  $(GEN)/grpc/health/v1/health.pb-c.c $(GEN)/grpc/reflection/v1/reflection.pb-c.c $(GEN)/grpc/reflection/v1alpha/reflection.pb-c.c
OBJ := $(SRC:gateway/%.c=$(OUT)/obj/%.o)
GEN_OBJ := $(GEN_SRC:$(GEN)/%.c=$(OUT)/obj/gen/%.o)
LIB := $(OUT)/libenvgate.a
UNITS := $(patsubst tests/unit/%.c,$(OUT)/tests/%,$(sort $(wildcard tests/unit/test_*.c)))
FUZZERS := $(patsubst tests/fuzz/%.c,$(OUT)/targets/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))

.PHONY: all run test docs lint bench bench-launch bench-peers test-image bench-trainer chaos fuzz install deps clean distclean help gen test-units test-integration units fuzzers conformance microhttpd1
all: $(OUT)/envgate

help:
	@awk '!/^#/ {exit} {sub(/^# ?/, ""); print}' Makefile

# --- generated code ----------------------------------------------------------------------------------------------------------------

$(B)/venv/ready: tools/deps.sh tools/requirements.txt
	tools/deps.sh venv

$(GEN)/ready: $(B)/venv/ready $(PROTOS) tools/gen.sh tools/gen_api.py tools/gen_openapi.py tools/descriptors.py tools/protoc-gen-c
	tools/gen.sh $(B) $(PY)
	@touch $@
gen: $(GEN)/ready
$(GEN_SRC): $(GEN)/ready ;

# --- the program -------------------------------------------------------------------------------------------------------------------

$(OUT)/obj/gen/%.o: $(GEN)/%.c $(GEN)/ready
	@mkdir -p $(@D)
	$(QUIET) CC $<
	$(HIDE)$(CC) $(CPPFLAGS) $(CFLAGS) -w -MMD -MP -c $< -o $@

$(OUT)/obj/%.o: gateway/%.c Makefile | $(GEN)/ready
	@mkdir -p $(@D)
	$(QUIET) CC $<
	$(HIDE)$(CC) $(CPPFLAGS) $(CFLAGS) $(WARN) -MMD -MP -c $< -o $@

$(LIB): $(filter-out $(OUT)/obj/main.o,$(OBJ)) $(GEN_OBJ)
	@rm -f $@
	$(HIDE)$(AR) rcs $@ $^

$(OUT)/envgate: $(OUT)/obj/main.o $(LIB)
	$(QUIET) LD $@
	$(HIDE)$(CC) $(CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

-include $(OBJ:.o=.d) $(GEN_OBJ:.o=.d) $(UNITS:=.d)

run:
	@tools/deps.sh run
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(OUT)/envgate
	@exec $(OUT)/envgate serve

install: $(OUT)/envgate
	install -D -m 755 $(OUT)/envgate $(DESTDIR)$(PREFIX)/bin/envgate
	install -D -m 644 docs/config.schema.json $(DESTDIR)$(PREFIX)/share/envgate/config.schema.json
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/envgate deploy/envgate.example.json docs/*.md
	cd proto && find . -name '*.proto' -exec install -D -m 644 {} $(DESTDIR)$(PREFIX)/share/envgate/proto/{} \;

# --- tests -------------------------------------------------------------------------------------------------------------------------

# A message of every kind of field, for the transcoder's tests.
$(OUT)/tests/transcode_test.pb-c.c: tests/unit/transcode_test.proto $(GEN)/ready
	@mkdir -p $(@D)
	protoc -I tests/unit -I /usr/include --plugin=protoc-gen-c=tools/protoc-gen-c --c_out=$(@D) $<
$(OUT)/tests/transcode_test.pb-c.o: $(OUT)/tests/transcode_test.pb-c.c
	$(HIDE)$(CC) $(CPPFLAGS) $(CFLAGS) -w -c $< -o $@
$(addprefix $(OUT)/tests/,test_transcode test_wire test_failmalloc transcode_oracle): $(OUT)/tests/transcode_test.pb-c.o

$(OUT)/tests/test_failmalloc: LDFLAGS += -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc
$(OUT)/tests/%: tests/unit/%.c $(LIB)
	@mkdir -p $(@D)
	$(QUIET) CC $<
	$(HIDE)$(CC) $(CPPFLAGS) -Itests/unit -isystem $(OUT)/tests $(CFLAGS) $(WARN) -MMD -MP -MF $@.d $(filter %.c %.o,$^) $(LIB) $(LDFLAGS) -lcmocka $(LDLIBS) -o $@

# The suites' services on the gateway's own RPC layer.
CONFORMANCE := $(B)/conformance
$(CONFORMANCE)/ready: $(B)/venv/ready $(GEN)/ready tests/conformance/gen.sh tests/conformance/tools/go.sum tests/conformance/tools/descriptors.go tools/gen_api.py
	tests/conformance/gen.sh $(B) $(PY)
	@touch $@
$(OUT)/conformance/server: $(CONFORMANCE)/ready $(wildcard tests/conformance/*.[ch]) $(LIB)
	@mkdir -p $(@D)/obj
	$(QUIET) CC $@
	$(HIDE)for f in $$(cd $(CONFORMANCE)/gen && find * -name '*.c'); do \
	  $(CC) $(CPPFLAGS) -isystem $(CONFORMANCE)/gen $(CFLAGS) -w -c $(CONFORMANCE)/gen/$$f -o $(@D)/obj/$$(echo $$f | tr / _).o || exit 1; done
	$(HIDE)$(CC) $(CPPFLAGS) -Itests/conformance -isystem $(CONFORMANCE)/gen $(CFLAGS) $(WARN) tests/conformance/*.c $(@D)/obj/*.o $(LIB) $(LDFLAGS) $(LDLIBS) -o $@

conformance:
	@tools/deps.sh conformance
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(OUT)/envgate $(OUT)/conformance/server
	tests/conformance/run.sh $(OUT)

# http.c alone knows libmicrohttpd, so the rest of the program is what there is.
MHD1 := $(B)/microhttpd1
MHD1_TESTS := http_front http_bad_input slow_callers tls_front auth websocket
$(MHD1)/ready: tools/microhttpd1.sh
	tools/microhttpd1.sh
	@touch $@
$(MHD1)/http.o: gateway/front/http.c $(MHD1)/ready $(LIB)
	$(HIDE)$(CC) -isystem $(MHD1)/usr/include $(CPPFLAGS) $(CFLAGS) $(WARN) -c $< -o $@
$(MHD1)/envgate: $(OUT)/obj/main.o $(MHD1)/http.o $(LIB)
	$(QUIET) LD $@
	$(HIDE)$(CC) $(CFLAGS) $(LDFLAGS) $^ -L$(MHD1)/lib -Wl,-rpath,$(CURDIR)/$(MHD1)/lib $(LDLIBS) -o $@
microhttpd1: $(MHD1)/envgate
	ENVGATE_BUILD=$(CURDIR)/$(MHD1) ENVGATE_BIN=$(CURDIR)/$< $(PY) -m pytest $(MHD1_TESTS:%=tests/integration/test_%.py) -q -p no:cacheprovider \
	  --timeout=300 -n $(JOBS)

deps:
	tools/deps.sh all

test:
	@tools/deps.sh all
	@tests/run.sh

units: $(UNITS)
test-units: units
	tests/run.sh units $(OUT) $(T)
test-integration: $(OUT)/envgate
	tests/run.sh integration $(OUT) $(T)

.PHONY: stubs clients
stubs: $(GEN)/ready
	tools/stubs-deps.sh
	tools/stubs.sh $(B) $(VERSION)

clients: $(B)/envgate
	@tools/stubs-deps.sh clients
	@tools/stubs.sh $(B) $(VERSION)
	@$(PY) tests/clients/run.py $(T)

docs: $(B)/envgate
	$(B)/envgate docs options >docs/OPTIONS.md
	$(B)/envgate docs metrics >docs/METRICS.md
	$(B)/envgate docs schema >docs/config.schema.json
	$(B)/envgate docs cli >docs/CLI.md
	$(PY) tools/gen_api_docs.py $(GEN)/api.pb $(B)/envgate docs/API.md

$(B)/bench/load: tests/bench/load.c tests/bench/histogram.h
	@mkdir -p $(@D)
	$(QUIET) CC $<
	$(HIDE)$(CC) -D_GNU_SOURCE -std=gnu17 -g -O2 $(WARN) $< -lnghttp2 -o $@

lint: $(B)/envgate
	tests/lint/lint.sh

bench:
	@tools/deps.sh bench
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(B)/envgate $(B)/bench/load
	$(PY) tests/bench/bench.py

bench-launch:
	@tools/deps.sh all
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(B)/envgate
	$(PY) tests/bench/launch.py

bench-trainer:
	@tools/deps.sh bench
	@tools/deps.sh venv build/venv-openenv-0.10.0 tests/envs/requirements-openenv-0.10.0.txt
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(B)/envgate
	$(PY) tests/bench/trainer.py

test-image:
	@tools/deps.sh all
	@tools/deps.sh debian debootstrap
	$(PY) tests/image/from_source.py

chaos:
	@tools/deps.sh all
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(OUT)/envgate
	ENVGATE_BUILD=$(CURDIR)/$(OUT) ENVGATE_BIN=$(CURDIR)/$(OUT)/envgate $(PY) tests/chaos/chaos.py --seconds $(CHAOS_SECONDS) --seed $(CHAOS_SEED)

bench-peers:
	@tools/deps.sh bench
	@tools/bench-deps.sh
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(B)/envgate $(B)/bench/load
	$(PY) tests/bench/bench.py --peers --rounds 5

# Built by `make SAN=fuzz CC=clang fuzzers` below build/fuzz/targets.
$(OUT)/targets/%: tests/fuzz/%.c $(LIB)
	@mkdir -p $(@D)
	$(QUIET) CC $<
	$(HIDE)$(CC) $(CPPFLAGS) $(CFLAGS) $(WARN) -Wno-missing-prototypes -fsanitize=fuzzer $< $(LIB) $(LDFLAGS) $(LDLIBS) -o $@
fuzzers: $(FUZZERS)
fuzz:
	tests/run.sh fuzz $(FUZZ_SECONDS)

# For tests/conformance/protobuf/run.sh, which generates its messages into TESTEE_GEN.
TESTEE_GEN ?= $(B)/conformance/protobuf/c
$(OUT)/tests/protobuf_testee: tests/conformance/protobuf/testee.c $(LIB) $(wildcard $(TESTEE_GEN)/*.c $(TESTEE_GEN)/google/protobuf/*.c)
	@mkdir -p $(@D)
	$(HIDE)for f in $(filter %.pb-c.c,$^); do $(CC) $(CPPFLAGS) -isystem $(TESTEE_GEN) $(CFLAGS) -w -c $$f -o $(@D)/$$(basename $$f .c).o || exit 1; done
	$(QUIET) CC $<
	$(HIDE)$(CC) $(CPPFLAGS) -isystem $(TESTEE_GEN) $(CFLAGS) $(WARN) $< $(patsubst %.c,$(@D)/%.o,$(notdir $(filter %.pb-c.c,$^))) \
	  $(LIB) $(LDFLAGS) $(LDLIBS) -o $@

clean:
	rm -rf $(B)/obj $(B)/gen $(B)/asan $(B)/tsan $(B)/tests $(B)/fuzz $(B)/stubs $(B)/envgate $(B)/libenvgate.a
distclean:
	rm -rf $(B)
