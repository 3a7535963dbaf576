# `make help` lists the targets. Everything built lands under build/.
CC      ?= cc
PKG     ?= pkg-config
VARIANT ?= release
PREFIX  ?= /usr/local

# One folder per set of flags: objects built differently can never meet.
B   := build/$(VARIANT)
GEN := build/gen

FLAGS_release := -O2 -g
FLAGS_debug   := -O0 -g
FLAGS_asan    := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FLAGS_tsan    := -O1 -g -fsanitize=thread
FLAGS_fuzz    := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
$(if $(FLAGS_$(VARIANT)),,$(error VARIANT is release, debug, asan, tsan or fuzz, not "$(VARIANT)"))
ifeq ($(VARIANT),fuzz)
CC := clang
CFLAGS += -Wno-unknown-warning-option -Wno-pass-failed
endif

# What each folder needs from outside; see ARCHITECTURE.md for who may use whom.
PKGS_base   :=
PKGS_api    := libprotobuf-c jansson zlib
PKGS_model  := libprotobuf-c jansson libsodium libturbojpeg spng libexif
PKGS_server := libmicrohttpd libnghttp2 gnutls libuv libarchive sqlite3 libpq libsodium libprotobuf-c jansson
PKGS_client := libcurl libprotobuf-c jansson
LIBS_model  := -ldnnl -fopenmp
FOLDERS := base api model server client

CPPFLAGS += -I. -I$(GEN) -D_GNU_SOURCE
CFLAGS   += -std=c11 $(FLAGS_$(VARIANT)) -Wall -Wextra -Wshadow -Wvla -Wformat=2 \
            -Wstrict-prototypes -Wmissing-prototypes -Wno-format-nonliteral -Wno-format-truncation -Wno-psabi \
            $(if $(WERROR),-Werror)
LDFLAGS  += $(FLAGS_$(VARIANT))

MAINS := server/main.c $(wildcard client/example*.c client/tool/*.c model/tool/*.c)
# Of the CUDA plug-in, only what has a unit test is in libmodel.a.
src   = $(filter-out $(MAINS) $(filter-out %/choice.c %/meeting.c,$(wildcard model/backends/cuda/*.c)),$(shell find $(1) -name '*.c' | sort))
obj   = $(patsubst %.c,$B/%.o,$(1))
libs  = $(foreach f,$(1),$(if $(PKGS_$f),$(shell $(PKG) --libs $(PKGS_$f))) $(LIBS_$f))
ar    = $(patsubst %,$B/lib%.a,$(1))

PROTOS   := api/tscaf api/oip/inference api/health/health api/reflection/reflection api/reflection/descriptor model/onnx/onnx
WEIGHTS  := $(wildcard model/weights/*.safetensors)
PROGRAMS := $B/tscafd $B/tscaf $B/tscaf-model
# In this order they run: what takes long begins first.
TESTS    := $(patsubst tests/%.c,$B/tests/%,$(wildcard tests/golden/test_*.c tests/integration/test_*.c tests/unit/test_*.c))
BENCHES  := $(patsubst tests/%.c,$B/tests/%,$(wildcard tests/bench/bench_*.c))
FUZZERS  := $(patsubst tests/%.c,$B/tests/%,$(wildcard tests/fuzz/fuzz_*.c))
SUPPORT  := $(patsubst %.c,$B/%.o,$(wildcard tests/support/*.c))
WRAP     := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all cuda cuda-graphs test asan tsan fuzz bench lint format install help clean

all: $(PROGRAMS) ## build the server, the client and the model tool

$B/tscafd: $(call obj,server/main.c) $(call ar,server api model base)
	$(CC) $(LDFLAGS) -o $@ $^ $(call libs,server api model) -lm -lpthread
$B/tscaf: $(call obj,$(wildcard client/tool/*.c)) $(call ar,client api base)
	$(CC) $(LDFLAGS) -o $@ $^ $(call libs,client api) -lm -lpthread
$B/tscaf-model: $(call obj,$(wildcard model/tool/*.c)) $(call ar,model base)
	$(CC) $(LDFLAGS) -o $@ $^ $(call libs,model) -lm -lpthread

define FOLDER
$B/lib$(1).a: $(call obj,$(call src,$(1))) $(patsubst %,$B/gen/%.pb-c.o,$(filter $(1)/%,$(PROTOS)))
	@mkdir -p $$(@D) && rm -f $$@
	ar rcs $$@ $$^
$(call obj,$(shell find $(1) -name '*.c')): CPPFLAGS += $(if $(PKGS_$(1)),$(shell $(PKG) --cflags $(PKGS_$(1))))
endef
$(foreach f,$(FOLDERS),$(eval $(call FOLDER,$f)))
$(call obj,$(call src,model)): CFLAGS += -fopenmp
$(call obj,model/shipped.c): CPPFLAGS += -DMDL_WEIGHTS_DIR='"$(CURDIR)/model/weights"'
# Tests that open the CUDA plug-in, or the processor in its place.
CUDA_TESTS := $(addprefix tests/,unit/test_model_plugin unit/test_model_cuda_learner unit/test_model_cuda_losses unit/test_model_train_trainer unit/test_server_devices unit/test_server_gallery_device \
    unit/test_server_gallery_errors unit/test_server_detect golden/test_model_cuda golden/test_model_cuda_train golden/test_model_gradient \
    golden/test_model_search unit/test_model_detector unit/test_model_lanes integration/test_model_train_tool)
$(CUDA_TESTS:%=$B/%.o): CPPFLAGS += -DPLUGINS='"$B/tests/plugins/"' -DCUDA_PLUGIN='"build/release/libtscaf-cuda.so"'

$(GEN)/%.pb-c.c $(GEN)/%.pb-c.h: %.proto
	@mkdir -p $(@D)
	protoc-c --proto_path=$(<D) --c_out=$(@D) $<
$B/gen/%.pb-c.o: $(GEN)/%.pb-c.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -w -c -o $@ $<

# The messages' headers must exist before anything that includes them.
$(call obj,$(shell find api model server client $(wildcard tests) -name '*.c')): | $(PROTOS:%=$(GEN)/%.pb-c.h)

# What reflection tells of the services, under the names that others import.
V1ALPHA := $(GEN)/v1alpha/reflection.proto
SERVED  := api/tscaf.proto api/oip/inference.proto api/health/health.proto api/reflection/reflection.proto $(V1ALPHA)
$(V1ALPHA): api/reflection/reflection.proto
	@mkdir -p $(@D)
	sed 's/^package grpc.reflection.v1;/package grpc.reflection.v1alpha;/' $< >$@
$(GEN)/services.binpb: $(SERVED)
	protoc-c -Igrpc/health/v1=api/health -Igrpc/reflection/v1=api/reflection \
	    -Igrpc/reflection/v1alpha=$(GEN)/v1alpha -Iinference=api/oip -Itscaf/v1=api \
	    --descriptor_set_out=$@ $^

$B/server/methods/handle_reflection.o: $(GEN)/services.binpb
$B/server/console.o: $(wildcard client/console/*)
$B/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# ---- tests: a unit test links only what its folder may use ----
deps_base   := base
deps_api    := api base
deps_model  := model base
deps_client := client api base
deps_server := server client api model base
test_deps    = $(or $(deps_$(word 2,$(subst _, ,$(notdir $(1))))),$(deps_server))

.SECONDEXPANSION:
$B/tests/fuzz/%: $B/tests/fuzz/%.o $$(call ar,$$(call test_deps,$$*))
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $(if $(filter fuzz,$(VARIANT)),-fsanitize=fuzzer) -o $@ $^ \
	    $(call libs,$(call test_deps,$*)) -lm -lpthread
$B/tests/%: $B/tests/%.o $(SUPPORT) $$(call ar,$$(call test_deps,$$@))
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $(WRAP) -o $@ $^ $(call libs,$(call test_deps,$@)) -lcmocka -lcurl -lsodium -lm -lpthread
# Of the engine alone: what scripts/gpu-check runs needs nothing of the server's.
define ENGINE_TEST
$B/tests/$(1)%: $B/tests/$(1)%.o $B/tests/support/unit.o $$$$(call ar,model base)
	@mkdir -p $$(@D)
	$$(CC) $$(LDFLAGS) $$(WRAP) -o $$@ $$^ $$(call libs,model) -lcmocka -lm -lpthread
endef
$(foreach t,golden/ unit/test_model_,$(eval $(call ENGINE_TEST,$t)))
$(call obj,$(shell find tests -name '*.c' 2>/dev/null)): CPPFLAGS += $(shell $(PKG) --cflags libprotobuf-c jansson)

# Plug-ins for the tests of the CUDA backend's boundary.
PLUGINS := $(patsubst tests/%.c,$B/tests/%.so,$(wildcard tests/plugins/*.c))
$B/tests/plugins/%.so: tests/plugins/%.c model/backends/plugin.h model/backend.h model/graph.h
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -shared $(SONAME) -o $@ $<
$B/tests/plugins/driver.so: SONAME := -Wl,-soname,libcuda.so.1
$B/tests/unit/test_model_plugin: | $(PLUGINS)

# The CUDA backend: a plug-in of its own, with what it needs of the engine inside.
CUDA_HOME ?= /usr/local/cuda
NVCC      ?= $(or $(shell command -v nvcc),$(wildcard $(CUDA_HOME)/bin/nvcc))
CUDNN_HOME ?= $(CUDA_HOME)
CUDA_MAJOR = $(shell $(NVCC) --version | sed -n 's/.*release \([0-9]*\).*/\1/p')
CUBLAS_HOME ?= $(CUDA_HOME)
NCCL_HOME ?= $(CUDA_HOME)
CUDA_ARCH ?= 75 80 86 89 90 100 120
CUDA_LIBS := $(addprefix model/backends/cuda/,device.c library.c cudnn.c cudnn_graph.c cublaslt.c nccl.c)
CUDA_C    := $(filter-out $(CUDA_LIBS),$(wildcard model/backends/cuda/*.c)) \
             base/error.c base/clock.c model/tensor.c model/graph.c model/graph_gradient.c
CUDA_PIC  := $(CUDA_C:%.c=$B/plugin/%.o)
CUDA_CU   := $(wildcard model/backends/cuda/*.cu)
last       = $(lastword $(CUDA_ARCH))
cuda: ## build/release/libtscaf-cuda.so, where nvcc and cuDNN 9 are found (CUDA_HOME, CUDNN_HOME, CUBLAS_HOME, NCCL_HOME, CUDA_ARCH)
ifeq ($(NVCC),)
	@echo "SKIPPED cuda: there is no nvcc (CUDA_HOME=$(CUDA_HOME))"
else ifeq ($(wildcard $(CUDNN_HOME)/include/cudnn_graph.h /usr/include/cudnn_graph.h),)
	@echo "SKIPPED cuda: there is no cuDNN 9 (CUDNN_HOME=$(CUDNN_HOME))"
else
cuda: $B/libtscaf-cuda.so
endif
# cuDNN, cuBLASLt and NCCL are opened at run time, from here too if they are here.
$B/libtscaf-cuda.so: $(CUDA_PIC) $(CUDA_LIBS:%.c=$B/plugin/%.o) $(CUDA_CU:%.cu=$B/plugin/%.cu.o)
	$(CC) $(LDFLAGS) -shared -Wl,--no-undefined -Wl,-rpath,'$$ORIGIN:$(CUDA_HOME)/lib64:$(CUDA_HOME)/lib:$(CUDNN_HOME)/lib:$(CUBLAS_HOME)/lib:$(NCCL_HOME)/lib' \
	    -o $@ $^ -L$(CUDA_HOME)/lib64 -L$(CUDA_HOME)/lib -lcudart_static -lstdc++ -lm -ldl -lrt -lpthread
$(CUDA_LIBS:%.c=$B/plugin/%.o): CPPFLAGS += -isystem $(CUDA_HOME)/include -isystem $(CUDNN_HOME)/include -isystem $(CUBLAS_HOME)/include \
    -isystem $(NCCL_HOME)/include
$B/plugin/%.cu.o: %.cu $(wildcard model/backends/cuda/*.cuh model/backends/cuda/*.h) model/graph.h model/index.h
	@mkdir -p $(@D)
	$(NVCC) -I. -O3 -std=c++17 -Xcompiler -fPIC,-fvisibility=hidden,-Wall$(if $(WERROR),$(comma)-Werror) \
	    $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$a,code=sm_$a) \
	    -gencode arch=compute_$(last),code=compute_$(last) -c -o $@ $<
$B/plugin/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c -o $@ $<
comma := ,

# What the backend asks of cuDNN, judged by cuDNN: no GPU needed.
cuda-graphs: ## where cuDNN 9 is found: whether it takes the graphs of both networks
ifeq ($(wildcard $(CUDNN_HOME)/include/cudnn_graph.h /usr/include/cudnn_graph.h),)
	@echo "SKIPPED cuda-graphs: there is no cuDNN 9 (CUDNN_HOME=$(CUDNN_HOME))"
else
cuda-graphs: $B/tests/cuda/graphs
	$B/tests/cuda/graphs
endif
$B/tests/cuda/graphs: $B/tests/cuda/graphs.o $(patsubst %,$B/plugin/model/backends/cuda/%.o,library cudnn cudnn_graph) $(call ar,model base)
	$(CC) $(LDFLAGS) -Wl,-rpath,$(CUDNN_HOME)/lib -o $@ $^ $(call libs,model) -ldl -lm -lpthread

# What a GPU can do at most, for scripts/gpu-check.
$B/tests/cuda/peak: tests/cuda/peak.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -isystem $(CUDA_HOME)/include -isystem $(CUBLAS_HOME)/include \
	    -Wl,-rpath,'$(CUDA_HOME)/lib64:$(CUDA_HOME)/lib:$(CUBLAS_HOME)/lib' -o $@ $< \
	    -L$(CUBLAS_HOME)/lib -l:libcublasLt.so.$(CUDA_MAJOR) -L$(CUDA_HOME)/lib64 -L$(CUDA_HOME)/lib \
	    -lcudart_static -lstdc++ -lm -ldl -lrt -lpthread

# The same with the processor in the GPU's place, for tests: no CUDA needed.
HOST_PLUGIN := $B/tests/plugins/host.so
$(HOST_PLUGIN): $(CUDA_PIC) $B/plugin/tests/plugins/host/device.o $B/plugin/tests/plugins/host/engines.o $B/plugin/tests/plugins/host/meeting.o $(CUDA_CU:%.cu=$B/plugin/%.host.o)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -shared -o $@ $^ -lstdc++ -lm
$B/plugin/%.host.o: %.cu $(wildcard model/backends/cuda/*.cuh model/backends/cuda/*.h) model/graph.h model/index.h
	@mkdir -p $(@D)
	$(CXX) -x c++ -I. -std=c++17 $(FLAGS_$(VARIANT)) -Wall -fPIC -fvisibility=hidden -c -o $@ $<
$(CUDA_TESTS:%=$B/%): | $(HOST_PLUGIN)

.PHONY: tests threaded test-threaded fuzzers
tests: $(TESTS) $(PLUGINS) $(HOST_PLUGIN)
test: all $(TESTS) ## every test, what was answered against openapi.yaml, RPC by real clients, ONNX by its runtime
	@rm -f $B/exchanges
	@TSCAF_EXCHANGES=$(CURDIR)/$B/exchanges scripts/run-tests $(TESTS)
	@tests/contract/check $B/exchanges
	@tests/rpc/run $(VARIANT)
	@tests/onnx/run $(VARIANT)
# What more than one thread touches: TSan's share of the tests.
THREADED := $(filter %/test_server_batcher %/test_server_devices %/test_server_faces %/test_server_store_call %/test_server_pool %/test_server_gallery %/test_server_gallery_device %/test_server_gallery_errors %/test_server_detect \
              %/test_server_http %/test_server_h2 %/test_server_h2_tls %/test_server_h2_duplex %/test_server_metrics %/test_server_rest %/test_server_rpc %/test_model_lanes %/test_model_cuda_choice \
              %/test_model_data_queue %/test_model_eval_evaluator \
              %/test_server_store_postgres,$(TESTS))
threaded: $(THREADED)
test-threaded: all $(THREADED)
	@scripts/run-tests $(THREADED)
asan: ## the tests under ASan and UBSan
	@$(MAKE) VARIANT=asan test
tsan: ## the threaded tests under TSan
	@$(MAKE) VARIANT=tsan test-threaded
fuzzers: $(FUZZERS)
fuzz: ## run every fuzzer for FUZZ_SECONDS (60) each
	@$(MAKE) VARIANT=fuzz fuzzers
	@scripts/run-fuzzers $(or $(FUZZ_SECONDS),60) $(patsubst $B/%,build/fuzz/%,$(FUZZERS))
bench: all $(BENCHES) ## build and run the benchmarks
	@for b in $(BENCHES); do ./$$b || exit 1; done
lint: ## formatting, include directions, static analysis, OpenAPI
	@scripts/lint
format: ## let clang-format rewrite the sources
	@git ls-files '*.[ch]' | xargs clang-format -i

# The client library for others: position-independent, and showing only its API.
LIBTSCAF := $B/libtscaf.so.0
PIC      := $(patsubst %.c,$B/pic/%.o,$(call src,client api base) $(GEN)/api/tscaf.pb-c.c $(GEN)/api/oip/inference.pb-c.c)
HEADERS  := client/client.h client/result.h api/error.h base/buf.h base/error.h
$(LIBTSCAF): $(PIC) client/libtscaf.map
	$(CC) $(LDFLAGS) -shared -Wl,-soname,$(@F),--version-script=client/libtscaf.map,--no-undefined \
	    -o $@ $(PIC) $(call libs,client api)
$(PIC): CPPFLAGS += $(shell $(PKG) --cflags $(PKGS_client) $(PKGS_api))
$B/pic/$(GEN)/%.o: CFLAGS += -w
$B/pic/%.o: %.c Makefile | $(PROTOS:%=$(GEN)/%.pb-c.h)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -MMD -MP -c -o $@ $<

TO = $(DESTDIR)$(PREFIX)
install: all $(LIBTSCAF) ## copy programs, libtscaf, headers, manual to PREFIX (and DESTDIR)
	install -d $(TO)/bin $(TO)/lib/pkgconfig $(TO)/share/man/man3 $(addprefix $(TO)/include/tscaf/,client api base)
	install -d $(TO)/share/tscaf
	install -m 755 $(PROGRAMS) $(TO)/bin
	install -m 644 $(wildcard model/weights/*.safetensors) $(TO)/share/tscaf
	install -m 755 $(LIBTSCAF) $(TO)/lib
	[ ! -e $B/libtscaf-cuda.so ] || install -D -m 755 -t $(TO)/lib/tscaf $B/libtscaf-cuda.so
	ln -sf $(notdir $(LIBTSCAF)) $(TO)/lib/libtscaf.so
	for h in $(HEADERS); do install -m 644 $$h $(TO)/include/tscaf/$$h || exit 1; done
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|0.1.0|' client/tscaf.pc.in >$(TO)/lib/pkgconfig/tscaf.pc
	install -m 644 client/libtscaf.3 $(TO)/share/man/man3
help: ## this list
	@sed -n 's/^\([a-z -]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16
clean: ## remove build/
	rm -rf build

-include $(shell [ ! -d $B ] || find $B -name '*.d')
